// switch.mjs MASTER SECONDS: plays a master playlist with hls.js in a headless
// browser, goes from one level to the next every SECONDS, through all of them and
// back, and succeeds when each was shown and the picture never stood still: for less than half a second, and without
// hls.js calling it a stall. A busy machine makes any player stand still, so the best of three tries counts. It prints
// the levels that were shown, by the height of the picture, and the longest stop.
import { withVideo } from './chromium.mjs';

const [master, seconds] = process.argv.slice(2);
const attempt = (page) => page.evaluate(async ([master, seconds]) => {
  const video = document.getElementById('video');
  const hls = new Hls({ startLevel: 0, maxBufferLength: 6 });
  const problems = [], heights = [];
  hls.on(Hls.Events.ERROR, (_, data) => problems.push(`${data.fatal ? 'fatal ' : ''}${data.details}`));
  const levels = new Promise((yes) => hls.on(Hls.Events.MANIFEST_PARSED, (_, data) => yes(data.levels)));
  hls.loadSource(master);
  hls.attachMedia(video);
  const list = (await levels).map((l) => ({ height: l.height, bitrate: l.bitrate, codecs: l.attrs.CODECS }));
  await video.play();
  const tick = () => new Promise((yes) => setTimeout(yes, 50));
  let stop = 0, longest = 0, last = video.currentTime;
  const watch = async (until) => {
    while (!until()) {
      const before = performance.now();
      await tick();
      stop = video.currentTime > last ? 0 : stop + performance.now() - before;
      last = video.currentTime;
      longest = Math.max(longest, stop);
      if (stop > 20000) return false;
    }
    return true;
  };
  const order = [...list.keys(), ...[...list.keys()].reverse().slice(1)];
  for (const level of order) {
    hls.nextLevel = level;
    const from = video.currentTime;
    const shown = await watch(() => video.videoHeight === list[level].height && video.currentTime > from + seconds);
    heights.push(video.videoHeight);
    if (!shown) break;
    if (heights.length === 1) longest = problems.length = 0; // until then it was starting
  }
  hls.destroy();
  return { levels: list, heights, longest: Math.round(longest), problems, ok: heights.length === order.length && heights.every((h, i) => h === list[order[i]].height) };
}, [master, Number(seconds)]);

await withVideo(async (page) => {
  await page.addScriptTag({ url: new URL('/player/hls.js', master).href });
  let good = false;
  for (let i = 0; i < 3 && !good; i++) {
    const state = await attempt(page);
    console.log(JSON.stringify(state));
    good = state.ok && state.longest < 500 && !state.problems.some((p) => p.startsWith('fatal') || p === 'bufferStalledError');
  }
  process.exitCode = good ? 0 : 1;
});
