// file.mjs FILE SEEK...: plays FILE, served over HTTP with ranges, in a
// headless browser, and seeks to each of the times, in seconds. It succeeds when
// there are pictures or sound at each of them, and prints what the browser says of the file
// and how many bytes it had asked for before it could play.
import { createServer } from 'node:http';
import { createReadStream, statSync } from 'node:fs';
import { chromium } from 'playwright-core';

const [file, ...seeks] = process.argv.slice(2);
const size = statSync(file).size;
let sent = 0;
const server = createServer((request, response) => {
  if (request.url !== '/file.mp4') {
    response.setHeader('Content-Type', 'text/html');
    response.end('<video id="video" muted preload="auto"></video>');
    return;
  }
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? 'bytes=0-');
  const from = Number(range[1]), to = range[2] ? Number(range[2]) : size - 1;
  response.writeHead(206, { 'Content-Type': 'video/mp4', 'Accept-Ranges': 'bytes',
    'Content-Length': to - from + 1, 'Content-Range': `bytes ${from}-${to}/${size}` });
  createReadStream(file, { start: from, end: to }).on('data', (d) => { sent += d.length; }).pipe(response);
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
});
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
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
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
