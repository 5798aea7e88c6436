// node hash.mjs MANIFEST RGBA WIDTH HEIGHT: codes of the face in a picture under two fresh keys, and their distances.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import { distance, Hasher, TransformKey } from "iom-web";

const [manifest, picture, width, height] = process.argv.slice(2);
const hasher = await Hasher.load(pathToFileURL(manifest));
const face = await hasher.embed({ data: await readFile(picture), width: Number(width), height: Number(height) });
const [first, second] = [await TransformKey.generate(), await TransformKey.generate()];
const [code, same, other] = [
  await hasher.hash(face, first),
  await hasher.hash(face, first),
  await hasher.hash(face, second),
];
console.log(JSON.stringify({ bytes: code.toBytes().length, same: distance(code, same), other: distance(code, other) }));
