// play.mjs URL SECONDS: opens docs/player.html with the URL in a headless
// browser, and succeeds when the picture has moved on by SECONDS.
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const [url, seconds] = process.argv.slice(2);
const page = new URL('../../docs/player.html', import.meta.url);
const library = (name) => fileURLToPath(new URL(`../node_modules/${name}`, import.meta.url));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
});
try {
  const tab = await browser.newPage();
  tab.on('console', (message) => console.error(message.text()));
  tab.on('pageerror', (error) => console.error(error.stack));
  // The two libraries, in the very versions that the page asks for, but from here.
  await tab.route('https://cdn.jsdelivr.net/npm/*/**', (route) => {
    const [, name, , file] = new URL(route.request().url()).pathname.match(/^\/npm\/(.*?)@([^/]*)\/(.*)$/);
    return route.fulfill({ path: library(`${name}/${file}`), headers: { 'Access-Control-Allow-Origin': '*' } });
  });
  await tab.goto(`${page}#${url}`);
  const wait = tab.waitForFunction((seconds) => {
    if (document.getElementById('problem').textContent) return true;
    const video = document.getElementById('video');
    if (video.readyState < 2 || video.paused) return false;
    window.from ??= video.currentTime;
    return video.currentTime - window.from >= seconds;
  }, Number(seconds), { timeout: 40_000, polling: 100 });
  const late = await wait.then(() => null, (error) => error.message);
  const state = await tab.evaluate(() => {
    const video = document.getElementById('video');
    const { totalVideoFrames: frames, droppedVideoFrames: dropped } = video.getVideoPlaybackQuality();
    return {
      problem: document.getElementById('problem').textContent, error: video.error?.message,
      from: window.from, currentTime: video.currentTime, width: video.videoWidth, height: video.videoHeight,
      frames, dropped, readyState: video.readyState, paused: video.paused,
    };
  });
  console.log(JSON.stringify(state));
  if (late) console.error(late);
  process.exitCode = !late && !state.problem ? 0 : 1;
} finally {
  await browser.close();
}
