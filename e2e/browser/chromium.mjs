// chromium.mjs: a headless browser for the scripts beside it.
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';

// withPage calls use with an empty page, and ends the browser when use has.
export async function withPage(use) {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
  });
  try {
    const page = await browser.newPage();
    page.on('pageerror', (error) => console.error(error.stack));
    await use(page);
  } finally {
    await browser.close();
  }
}

// withVideo calls use with a page of nothing but a <video id="video">, beside which
// each of files, functions by path, answers requests.
export async function withVideo(use, files = {}) {
  const server = createServer((request, response) => {
    const answer = files[request.url];
    if (answer) return answer(request, response);
    response.setHeader('Content-Type', 'text/html');
    response.end('<video id="video" muted preload="auto"></video>');
  });
  await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
  try {
    await withPage(async (page) => {
      await page.goto(`http://127.0.0.1:${server.address().port}/`);
      await use(page);
    });
  } finally {
    server.closeAllConnections();
    server.close();
  }
}
