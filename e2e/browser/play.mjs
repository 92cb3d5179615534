// play.mjs URL SECONDS [hls]: opens the page that weir serves, with what to
// play behind a # in its URL, in a headless browser. It succeeds when the
// picture has moved on by SECONDS. With hls the page is denied its libraries
// and the browser has to play HLS by itself.
import { withPage } from './chromium.mjs';

const [url, seconds, alone] = process.argv.slice(2);
await withPage(async (page) => {
  page.on('console', (message) => console.error(message.text()));
  if (alone) await page.route('**/player/*', (route) => route.abort());
  await page.goto(url);
  const wait = page.waitForFunction((seconds) => {
    if (document.getElementById('state').textContent) return true;
    const video = document.getElementById('video');
    if (video.readyState < 2 || video.paused) return false;
    window.from ??= video.currentTime;
    return video.currentTime - window.from >= seconds;
  }, Number(seconds), { timeout: 40_000, polling: 100 });
  const late = await wait.then(() => null, (error) => error.message);
  const state = await page.evaluate(() => {
    const video = document.getElementById('video');
    const { totalVideoFrames: frames, droppedVideoFrames: dropped } = video.getVideoPlaybackQuality();
    return {
      says: document.getElementById('state').textContent, error: video.error?.message,
      from: window.from, currentTime: video.currentTime, width: video.videoWidth, height: video.videoHeight,
      frames, dropped, readyState: video.readyState, paused: video.paused,
    };
  });
  console.log(JSON.stringify(state));
  if (late) console.error(late);
  process.exitCode = !late && !state.says ? 0 : 1;
});
