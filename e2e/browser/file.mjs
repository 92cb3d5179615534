// file.mjs FILE SEEK...: plays FILE, served over HTTP with ranges, in a
// headless browser, and seeks to each of the times, in seconds. It succeeds when
// there are pictures or sound at each of them, and prints what the browser says of the file
// and how many bytes it had asked for before it could play.
import { createReadStream, statSync } from 'node:fs';
import { withVideo } from './chromium.mjs';

const [file, ...seeks] = process.argv.slice(2);
const size = statSync(file).size;
let sent = 0;
const answer = (request, response) => {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? 'bytes=0-');
  const from = Number(range[1]), to = range[2] ? Number(range[2]) : size - 1;
  response.writeHead(206, { 'Content-Type': 'video/mp4', 'Accept-Ranges': 'bytes',
    'Content-Length': to - from + 1, 'Content-Range': `bytes ${from}-${to}/${size}` });
  createReadStream(file, { start: from, end: to }).on('data', (d) => { sent += d.length; }).pipe(response);
};
await withVideo(async (page) => {
  const state = await page.evaluate(async (seeks) => {
    const video = document.getElementById('video');
    const event = (name) => new Promise((yes, no) => {
      video.addEventListener(name, yes, { once: true });
      video.addEventListener('error', () => no(new Error(video.error.message)), { once: true });
      setTimeout(() => no(new Error(`no ${name} after 20 s`)), 20000);
    });
    video.src = '/file.mp4';
    await event('canplay');
    const state = { duration: video.duration, width: video.videoWidth, height: video.videoHeight, seeks: [] };
    for (const seek of seeks) {
      const there = event('seeked');
      video.currentTime = seek;
      await there;
      await video.play();
      await event('timeupdate');
      state.seeks.push(video.currentTime);
      video.pause();
    }
    return state;
  }, seeks.map(Number));
  state.sent = sent;
  console.log(JSON.stringify(state));
}, { '/file.mp4': answer });
