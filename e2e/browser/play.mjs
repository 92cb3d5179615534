// play.mjs URL SECONDS [hls]: opens the page that weir serves, with what to
// play behind a # in its URL, in a headless browser. It succeeds when the
// picture has moved on by SECONDS. With hls the page is denied its libraries
// and the browser has to play HLS by itself.
import { chromium } from 'playwright-core';

const [url, seconds, alone] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
});
try {
  const page = await browser.newPage();
  page.on('console', (message) => console.error(message.text()));
  page.on('pageerror', (error) => console.error(error.stack));
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
} finally {
  await browser.close();
}
