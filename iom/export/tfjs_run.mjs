// Run by node for the check of an export: node tfjs_run.mjs MODEL_FOLDER INPUTS OUTPUT N S W M
// INPUTS holds N images of S x S x 3 bytes, then N orders of W int32; OUTPUT gets N codes of M int32.
import { createRequire } from 'node:module';
import fs from 'node:fs';
import path from 'node:path';

const require = createRequire(path.join(process.cwd(), 'package.json'));
const tf = require('@tensorflow/tfjs');
const wasm = require('@tensorflow/tfjs-backend-wasm');
const [folder, inputs, output, ...sizes] = process.argv.slice(2);
const [count, side, width, length] = sizes.map(Number);

const home = path.dirname(require.resolve('@tensorflow/tfjs-backend-wasm'));
wasm.setWasmPaths(home + path.sep);
await tf.setBackend('wasm');
await tf.ready();

const description = JSON.parse(fs.readFileSync(path.join(folder, 'model.json')));
const parts = description.weightsManifest.flatMap((group) => group.paths);
const weights = Buffer.concat(parts.map((name) => fs.readFileSync(path.join(folder, name))));
const model = await tf.loadGraphModel({
  load: async () => ({
    modelTopology: description.modelTopology,
    signature: description.signature,
    weightSpecs: description.weightsManifest.flatMap((group) => group.weights),
    weightData: weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.byteLength),
  }),
});
// The order of outputs varies between conversions: they are taken by their name.
const named = (ends, name) => ends[name].name;
const { inputs: into, outputs: out } = description.signature;

const data = fs.readFileSync(inputs);
const pixels = side * side * 3;
const codes = new Int32Array(count * length);
for (let i = 0; i < count; i++) {
  const image = Float32Array.from(data.subarray(i * pixels, (i + 1) * pixels));
  const start = data.byteOffset + count * pixels + i * width * 4;
  const order = new Int32Array(data.buffer.slice(start, start + width * 4));
  const feed = {
    [named(into, 'image')]: tf.tensor(image, [1, side, side, 3]),
    [named(into, 'order')]: tf.tensor(order, [1, width], 'int32'),
  };
  const found = await model.executeAsync(feed, named(out, 'codes'));
  codes.set(await found.data(), i * length);
  tf.dispose([found, ...Object.values(feed)]);
}
fs.writeFileSync(output, Buffer.from(codes.buffer));
