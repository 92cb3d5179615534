// switch.mjs MASTER SECONDS: plays a master playlist with hls.js in a headless
// browser, goes from one level to the next every SECONDS, through all of them and
// back, and succeeds when each was shown and the picture never stood still for long (the machine may be busy). It prints the
// levels that were shown, by the height of the picture, and the longest stop.
import { withVideo } from './chromium.mjs';

const [master, seconds] = process.argv.slice(2);
await withVideo(async (page) => {
  await page.addScriptTag({ url: new URL('/player/hls.js', master).href });
  const state = await page.evaluate(async ([master, seconds]) => {
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
      if (level === order[0] && heights.length === 1) longest = 0; // until then it was starting
    }
    return { levels: list, heights, longest: Math.round(longest), problems, ok: heights.length === order.length && heights.every((h, i) => h === list[order[i]].height) };
  }, [master, Number(seconds)]);
  console.log(JSON.stringify(state));
  process.exitCode = state.ok && !state.problems.some((p) => p.startsWith('fatal')) && state.longest < 4000 ? 0 : 1;
});
