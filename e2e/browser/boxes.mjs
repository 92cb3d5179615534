// boxes.mjs FILE: prints what mp4box.js finds in FILE, of which it is given
// piece after piece: whether it knew the tracks before the media came, and the
// samples of each track.
import { openSync, readSync } from 'node:fs';
import { createFile } from 'mp4box';

const fd = openSync(process.argv[2]);
const file = createFile();
const tracks = [];
let ready = -1, at = 0, failed = null;
file.onError = (module, message) => { failed = `${module}: ${message}`; };
file.onReady = (info) => {
  ready = at;
  for (const t of info.tracks) {
    tracks.push({ id: t.id, codec: t.codec, samples: 0, bytes: 0, keys: 0, duration: t.duration / t.timescale, expected: t.nb_samples });
    file.setExtractionOptions(t.id, null, { nbSamples: 500 });
  }
  file.start();
};
file.onSamples = (id, _, samples) => {
  const t = tracks.find((t) => t.id === id);
  for (const s of samples) {
    t.samples++;
    t.bytes += s.data.byteLength;
    if (s.is_sync) t.keys++;
  }
  file.releaseUsedSamples(id, samples[samples.length - 1].number);
};
for (;;) {
  const piece = new ArrayBuffer(1 << 20);
  const n = readSync(fd, new Uint8Array(piece), 0, piece.byteLength, at);
  if (n === 0) break;
  const data = piece.slice(0, n);
  data.fileStart = at;
  file.appendBuffer(data);
  at += n;
}
file.flush();
if (failed) throw new Error(failed);
console.log(JSON.stringify({ ready, tracks }));
