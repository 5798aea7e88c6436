// Work of `python -m benchmarks.browser` in the page: it returns figures, and sends nothing but what the client sends.
import { Device, Hasher, OnDeviceClient, TransformKey } from "/library/index.js";

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const bytesOf = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());

async function timed(work) {
  const start = performance.now();
  const result = await work();
  return [result, performance.now() - start];
}

let hasher, key;

/** Load a hasher; seconds, and megabytes over the wire. */
export async function load(manifest, text, threads) {
  performance.clearResourceTimings();
  const [found, ms] = await timed(() => Hasher.load(manifest, { wasmPaths: "/library/", ...(threads && { threads }) }));
  [hasher, key] = [found, await TransformKey.fromText(text)];
  const entries = performance.getEntriesByType("resource");
  const library = await (await fetch("/size/library/index.js")).json();
  const sum = (name) => entries.reduce((total, entry) => total + entry[name], 0);
  return { load_seconds: ms / 1000, load_mb: (sum("encodedBodySize") + library.gzip) / 1e6, plain_mb: (sum("decodedBodySize") + library.plain) / 1e6 };
}

/** Codes and embeddings of chips that lie one after the other in a file; milliseconds of each step. */
export async function chips(path, size, count) {
  const all = await bytesOf(path);
  const codes = [], embeddings = [], embed = [], hash = [];
  for (let i = 0; i < count; i++) {
    const pixels = all.subarray(i * 3 * size * size, (i + 1) * 3 * size * size);
    const [embedding, first] = await timed(() => hasher.embed({ pixels, size }));
    const [code, second] = await timed(() => hasher.hash(embedding, key));
    codes.push([...code.symbols]);
    embeddings.push([...embedding]);
    embed.push(first);
    hash.push(second);
  }
  return { codes, embeddings, embed_ms: median(embed), hash_ms: median(hash) };
}

/** Codes of photographs, or the status of what was refused. */
export async function photographs(paths) {
  const found = [];
  for (const path of paths) {
    const blob = await (await fetch(path)).blob();
    try {
      found.push([...(await hasher.hash(blob, key)).symbols]);
    } catch (error) {
      found.push(String(error.status ?? error));
    }
  }
  return found;
}

/** Milliseconds from a frame of a camera to the chip of its face. */
export async function frames(paths) {
  const taken = [];
  for (const path of paths) {
    const bitmap = await createImageBitmap(await (await fetch(path)).blob());
    const [, ms] = await timed(() => hasher.oneFace(bitmap).catch(() => undefined));
    taken.push(ms);
  }
  return median(taken);
}

/** Enrol, verify, renew and revoke with a service, from pictures. */
export async function service(token, application, first, second) {
  const client = new OnDeviceClient(location.origin, token, { application });
  const device = await Device.open("benchmark");
  const [enrolled, again] = await Promise.all([first, second].map(async (path) => (await fetch(path)).blob()));
  const probe = (source) => ({ device, hasher, subject: "benchmark", source });
  await client.enroll(probe(enrolled));
  const decisions = [await client.verify(probe(enrolled)), await client.verify(probe(again))];
  await client.renew(probe(enrolled));
  decisions.push(await client.verify(probe(enrolled)));
  await client.revoke({ device, subject: "benchmark" });
  return decisions;
}

const scripted = (path) => new Promise((resolve, reject) => {
  const script = Object.assign(document.createElement("script"), { src: path, onload: resolve, onerror: reject });
  document.head.append(script);
});

/** Load the peer on a backend; false where that does not start. */
let faceapi;
export async function peer(backend) {
  faceapi ??= await import("/peer/@vladmandic/face-api/dist/face-api.esm.js");
  faceapi.tf.setWasmPaths?.("/peer/@tensorflow/tfjs-backend-wasm/dist/");
  if (!(await faceapi.tf.setBackend(backend))) return false;
  await faceapi.tf.ready();
  const [, ms] = await timed(() => faceapi.nets.faceRecognitionNet.loadFromUri("/peer/@vladmandic/face-api/model"));
  return { backend: faceapi.tf.getBackend(), load_seconds: ms / 1000 };
}

/** Descriptors of chips by the peer. */
export async function peerChips(path, size, count) {
  const all = await bytesOf(path);
  const embeddings = [], taken = [];
  for (let i = 0; i < count; i++) {
    const canvas = drawn(all.subarray(i * 3 * size * size, (i + 1) * 3 * size * size), size);
    const [row, ms] = await timed(() => faceapi.computeFaceDescriptor(canvas));
    embeddings.push([...row]);
    taken.push(ms);
  }
  return { embeddings, embed_ms: median(taken) };
}

/** The same hasher as a TF.js export: milliseconds from a chip to its code, and the codes. */
export async function tfjs(model, path, size, count, kind, keySize, keep) {
  if (globalThis.tf === undefined) {
    await scripted("/peer/@tensorflow/tfjs/dist/tf.min.js");
    await scripted("/peer/@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.min.js");
    tf.wasm.setWasmPaths("/peer/@tensorflow/tfjs-backend-wasm/dist/");
  }
  if (!(await tf.setBackend("wasm"))) throw new Error("TF.js does not start in WebAssembly");
  performance.clearResourceTimings();
  const [graph, loading] = await timed(() => tf.loadGraphModel(model));
  const mb = performance.getEntriesByType("resource").reduce((total, entry) => total + entry.encodedBodySize, 0) / 1e6;
  const { inputs: into, outputs: out } = (await (await fetch(model)).json()).signature;
  const all = await bytesOf(path);
  const order = await key.order(kind, keySize, keep);
  const codes = [], taken = [];
  for (let i = 0; i < count; i++) {
    const pixels = Float32Array.from(all.subarray(i * 3 * size * size, (i + 1) * 3 * size * size));
    const [symbols, ms] = await timed(async () => {
      const feed = {
        [into.image.name]: tf.tensor4d(pixels, [1, size, size, 3]),
        [into.order.name]: tf.tensor2d(order, [1, order.length], "int32"),
      };
      const answer = await graph.executeAsync(feed, out.codes.name);
      const data = await answer.data();
      tf.dispose([answer, ...Object.values(feed)]);
      return data;
    });
    codes.push([...symbols]);
    taken.push(ms);
  }
  return { codes, hash_image_ms: median(taken), load_seconds: loading / 1000, load_mb: mb, threads: tf.wasm.getThreadsCount() };
}

let prepared = [];

/** Chips for `embedPrepared` or, as canvases, for `peerPrepared`. */
export async function prepare(path, size, count, asCanvas) {
  const all = await bytesOf(path);
  prepared = Array.from({ length: count }, (_, i) => {
    const pixels = all.subarray(i * 3 * size * size, (i + 1) * 3 * size * size);
    return asCanvas ? drawn(pixels, size) : { pixels, size };
  });
}

/** Embed what was prepared. */
export async function embedPrepared() {
  for (const chip of prepared) await hasher.embed(chip);
}

/** Embed and hash what was prepared. */
export async function hashPrepared() {
  for (const chip of prepared) await hasher.hash(chip, key);
}

/** Embed what was prepared, by the peer. */
export async function peerPrepared() {
  for (const canvas of prepared) await faceapi.computeFaceDescriptor(canvas);
}

function drawn(pixels, size) {
  const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.createImageData(size, size);
  for (let at = 0, from = 0; at < image.data.length; at += 4, from += 3) {
    image.data.set([pixels[from], pixels[from + 1], pixels[from + 2], 255], at);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}
