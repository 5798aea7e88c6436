/** A hasher on faces that Python has hashed; IOM_WEB_TRIAL names the folder of `tests/clients/web_trial.py`. */

import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { Hasher, TransformKey } from "../src/index.js";
import { RUNTIME_FOLDER } from "./made_artefact.js";
import { fromHex } from "./vectors.js";

const folder = process.env.IOM_WEB_TRIAL;

interface Coded {
  chip: string;
  symbols: string;
}
interface Trial {
  manifest: string;
  secret: string;
  faces: Coded[];
  photographs: (Coded & { file: string; width: number; height: number; points: [number, number][] })[];
}

/** Share of equal bytes. */
class Share {
  equal = 0;
  total = 0;

  add(first: Uint8Array, second: Uint8Array): void {
    expect(first.length).toBe(second.length);
    this.equal += first.filter((value, i) => value === second[i]).length;
    this.total += first.length;
  }

  get value(): number {
    return this.equal / this.total;
  }
}

describe.skipIf(folder === undefined)("a hasher of Python", () => {
  it("finds, aligns and hashes faces as Python does", async () => {
    const read = (name: string): Uint8Array => new Uint8Array(readFileSync(`${folder}/${name}`));
    const trial = JSON.parse(readFileSync(`${folder}/trial.json`, "utf8")) as Trial;
    const hasher = await Hasher.load(pathToFileURL(`${folder}/${trial.manifest}`), { wasmPaths: RUNTIME_FOLDER });
    const key = await TransformKey.fromBytes(fromHex(trial.secret));
    const [ofPixels, ofPhotographs, ofChips] = [new Share(), new Share(), new Share()];
    let farthest = 0;
    for (const { chip, symbols } of trial.faces) {
      const pixels = read(chip);
      const code = await hasher.hash({ pixels, size: Math.sqrt(pixels.length / 3) }, key);
      ofPixels.add(code.symbols, read(symbols));
    }
    for (const { file, width, height, points, chip, symbols } of trial.photographs) {
      const found = await hasher.oneFace({ data: read(file), width, height });
      const offsets = found.face!.points.map(([x, y], i) => Math.hypot(x - points[i][0], y - points[i][1]));
      farthest = Math.max(farthest, ...offsets);
      ofChips.add(found.chip.pixels, read(chip));
      ofPhotographs.add((await hasher.hash(found.chip, key)).symbols, read(symbols));
    }
    const result = {
      faces: trial.faces.length,
      photographs: trial.photographs.length,
      equal_symbols_pixels: ofPixels.value,
      equal_symbols_photos: ofPhotographs.value,
      equal_chip_bytes: ofChips.value,
      farthest_landmark: farthest,
    };
    writeFileSync(`${folder}/found.json`, JSON.stringify(result));
    expect(farthest).toBeLessThan(0.01);
    expect(result.equal_chip_bytes).toBeGreaterThan(0.999);
    expect(result.equal_symbols_pixels).toBeGreaterThanOrEqual(0.999);
    expect(result.equal_symbols_photos).toBeGreaterThanOrEqual(0.98);
  }, 240_000);
});
