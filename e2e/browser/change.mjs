// change.mjs MASTER SECONDS: plays a master playlist with hls.js in a headless browser for so long, goes from one
// level to the next every three seconds, whatever becomes of the source meanwhile, and succeeds when the picture never
// stood still for long (the machine may be busy) and no error was fatal. It prints the sizes of the picture that were
// seen, and the longest stop.
import { withVideo } from './chromium.mjs';

const [master, seconds] = process.argv.slice(2);
await withVideo(async (page) => {
  await page.addScriptTag({ url: new URL('/player/hls.js', master).href });
  const state = await page.evaluate(async ([master, seconds]) => {
    const video = document.getElementById('video');
    const hls = new Hls({ startLevel: 0, maxBufferLength: 6 });
    const problems = [], sizes = new Set();
    let discontinuities = new Set();
    hls.on(Hls.Events.ERROR, (_, data) => problems.push(`${data.fatal ? 'fatal ' : ''}${data.details}`));
    hls.on(Hls.Events.FRAG_CHANGED, (_, data) => discontinuities.add(data.frag.cc));
    const levels = new Promise((yes) => hls.on(Hls.Events.MANIFEST_PARSED, (_, data) => yes(data.levels.length)));
    hls.loadSource(master);
    hls.attachMedia(video);
    const count = await levels;
    await video.play();
    const tick = () => new Promise((yes) => setTimeout(yes, 50));
    while (video.currentTime === 0 || video.videoHeight === 0) await tick();
    let stop = 0, longest = 0, last = video.currentTime, level = 0;
    const first = last, begin = performance.now();
    let next = begin + 3000;
    for (let now = begin, before = begin; now < begin + seconds * 1000; before = now, now = performance.now()) {
      await tick();
      stop = video.currentTime > last ? 0 : stop + performance.now() - now;
      last = video.currentTime;
      longest = Math.max(longest, stop);
      sizes.add(`${video.videoWidth}x${video.videoHeight}`);
      if (now > next) {
        next += 3000;
        hls.nextLevel = level = (level + 1) % count;
      }
    }
    return { sizes: [...sizes].sort(), played: Math.round(last - first), longest: Math.round(longest), discontinuities: discontinuities.size, problems };
  }, [master, Number(seconds)]);
  console.log(JSON.stringify(state));
  process.exitCode = !state.problems.some((p) => p.startsWith('fatal')) && state.longest < 4000 ? 0 : 1;
});
