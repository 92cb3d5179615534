// play.mjs hls|flv URL SECONDS: plays the URL with hls.js or mpegts.js in a
// headless browser, and succeeds when the picture has moved on by SECONDS.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

const [kind, url, seconds] = process.argv.slice(2);
const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const files = {
  '/': [here('page.html'), 'text/html'],
  '/hls.js': [here('../node_modules/hls.js/dist/hls.min.js'), 'text/javascript'],
  '/mpegts.js': [here('../node_modules/mpegts.js/dist/mpegts.js'), 'text/javascript'],
};

const site = createServer(async (req, res) => {
  const [file, type] = files[req.url] ?? [];
  if (!file) return res.writeHead(404).end();
  res.setHeader('Content-Type', type);
  res.end(await readFile(file));
});
await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
});
try {
  const page = await browser.newPage();
  page.on('console', (message) => console.error(message.text()));
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
  await page.evaluate(([kind, url]) => { play(kind, url); }, [kind, url]);
  await page.waitForFunction((seconds) => {
    if (problems.length) return true;
    if (video.readyState < 2 || video.paused) return false;
    window.from ??= video.currentTime;
    return video.currentTime - window.from >= seconds;
  }, Number(seconds), { timeout: 40_000, polling: 100 }).catch((error) => problemsOf(page, error));
  const state = await page.evaluate(() => ({
    problems, from: window.from, currentTime: video.currentTime, width: video.videoWidth, height: video.videoHeight,
    frames: video.getVideoPlaybackQuality().totalVideoFrames, dropped: video.getVideoPlaybackQuality().droppedVideoFrames,
    readyState: video.readyState, paused: video.paused, error: video.error?.message,
  }));
  console.log(JSON.stringify(state));
  const advanced = state.currentTime - state.from;
  process.exitCode = state.problems.length === 0 && advanced >= Number(seconds) ? 0 : 1;
} finally {
  await browser.close();
  site.close();
}

async function problemsOf(page, error) {
  await page.evaluate((message) => problems.push(message), error.message);
}
