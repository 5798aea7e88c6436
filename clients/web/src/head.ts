/** The hash of an artefact: from an embedding and a key's order to a code; the steps of `iom.nn.hash_numpy`. */

import { dot, rowTimes, sumOf, timesColumn, unit } from "./arithmetic.js";
import { ArtefactError } from "./errors.js";
import { ROTATION_ROUNDS } from "./keys.js";

const { fround } = Math;
const FLOOR = 1e-12;
/** Positions whose choice a position of a product frame with a window of 2 takes into account, to either side. */
const REACH = 16;

/** A step of `web.json`: what it reads (0 the embedding, 1 the order, then results of steps) and its settings. */
export interface StatedStep {
  step: string;
  reads: number[];
  settings: Record<string, number | boolean>;
  arrays: Record<string, string>;
}

/** Where an array lies in `head.bin`. */
export interface StatedArray {
  dtype: "float16" | "float32";
  shape: number[];
  offset: number;
}

/** The hash in `web.json`. */
export interface StatedHead {
  steps: StatedStep[];
  arrays: Record<string, StatedArray>;
}

interface Table {
  values: Float32Array;
  shape: number[];
}

/** Responses `(M, Q)` of a projection, or a row. */
type Row = Float32Array;
type Step = (values: (Row | Int32Array)[]) => Row;

/** The hash network. */
export class Head {
  readonly #steps: { run: Step; reads: number[] }[];
  readonly #alphabetSize: number;

  constructor(stated: StatedHead, data: Uint8Array, alphabetSize: number) {
    const tables = readArrays(stated.arrays, data);
    this.#alphabetSize = alphabetSize;
    this.#steps = stated.steps.map((step, number) => {
      const make = Object.hasOwn(STEPS, step.step) ? STEPS[step.step] : undefined;
      if (make === undefined) {
        const name = String(step.step).slice(0, 100);
        throw new ArtefactError(`web.json: expected steps ${Object.keys(STEPS).join(", ")}, received ${name}`);
      }
      if (!Array.isArray(step.reads) || typeof step.settings !== "object" || typeof step.arrays !== "object") {
        throw new ArtefactError(`web.json: step ${number} is damaged; export the hasher again`);
      }
      if (!step.reads.every((read) => Number.isInteger(read) && read >= 0 && read < number + 2)) {
        throw new ArtefactError(
          `web.json: step ${number} reads a value that is not there yet: ${step.reads.join(", ")}`,
        );
      }
      const found: Record<string, Table> = {};
      for (const [setting, name] of Object.entries(step.arrays)) {
        if (!Object.hasOwn(tables, name))
          throw new ArtefactError(`web.json: the array ${name} of step ${number} is missing`);
        found[setting] = tables[name];
      }
      return { run: make(step.settings, found), reads: step.reads };
    });
  }

  /** Symbols `(M,)` of an embedding `(D,)` under the order `(W,)` of a key; of equal responses the first. */
  hash(embedding: Float32Array, order: Int32Array): Uint8Array {
    const values: (Row | Int32Array)[] = [embedding, order];
    for (const { run, reads } of this.#steps) values.push(run(reads.map((read) => values[read])));
    const responses = values[values.length - 1] as Row;
    const size = this.#alphabetSize;
    const symbols = new Uint8Array(responses.length / size);
    for (let place = 0; place < symbols.length; place++) symbols[place] = firstLargest(responses, place * size, size);
    return symbols;
  }
}

const STEPS: Record<string, (settings: Record<string, number | boolean>, arrays: Record<string, Table>) => Step> = {
  unit:
    () =>
    ([row]) =>
      unit(row as Row, FLOOR),
  dense:
    (_, { kernel, bias }) =>
    ([row]) => {
      const product = rowTimes(row as Row, kernel.values);
      return bias === undefined ? product : product.map((value, i) => value + bias.values[i]);
    },
  prelu:
    (_, { slopes }) =>
    ([row]) =>
      (row as Row).map((value, i) => (value > 0 ? value : value * slopes.values[i])),
  sum:
    () =>
    ([first, second]) =>
      (first as Row).map((value, i) => value + second[i]),
  permutation:
    ({ keep }) =>
    ([row, order]) =>
      Float32Array.from(order.subarray(0, Number(keep) || undefined), (place) => row[place]),
  rotation:
    ({ keep }) =>
    ([row, order]) =>
      rotated(row as Row, order as Int32Array, Number(keep)),
  projection: (settings, { kernel }) => projection(settings as unknown as ProjectionSettings, kernel),
  product: (settings, { codebook }) => {
    const { code_length, half_norm_bias, window } = settings;
    return product(codebook, Number(code_length), Boolean(half_norm_bias), Number(window ?? 1));
  },
};

function firstLargest(responses: Row, start: number, size: number): number {
  let best = 0;
  for (let symbol = 1; symbol < size; symbol++) if (responses[start + symbol] > responses[start + best]) best = symbol;
  return best;
}

/** A row turned by signed orders, with a Hadamard transform between each two. */
function rotated(row: Row, order: Int32Array, keep: number): Row {
  const size = row.length;
  for (let round = 0; round < ROTATION_ROUNDS; round++) {
    const isLast = round + 1 === ROTATION_ROUNDS;
    const part = order.subarray(round * size, round * size + (isLast && keep ? keep : size));
    const taken = Float32Array.from(part, (place) => (place < 0 ? -row[-place - 1] : row[place]));
    row = isLast ? taken : hadamard(taken);
  }
  return row;
}

/** Normalised Walsh-Hadamard transform of blocks of columns: powers of two, the largest first. */
function hadamard(row: Row): Row {
  const result = new Float32Array(row.length);
  let start = 0;
  for (let size = 2 ** 30; size >= 1; size /= 2) {
    if (!(row.length & size)) continue;
    let block = row.slice(start, start + size);
    for (let half = 1; half < size; half *= 2) {
      const next = new Float32Array(size);
      for (let at = 0; at < size; at += 2 * half) {
        for (let i = at; i < at + half; i++) {
          next[i] = block[i] + block[i + half];
          next[i + half] = block[i] - block[i + half];
        }
      }
      block = next;
    }
    const scale = fround(1 / Math.sqrt(size));
    for (let i = 0; i < size; i++) result[start + i] = block[i] * scale;
    start += size;
  }
  return result;
}

interface ProjectionSettings {
  alphabet_size: number;
  steps: number;
  gain: number;
  rate: number;
  decay: number;
}

/** Responses `(M, Q)` of the refined row; the vectors of each position less their mean are what its code reads back. */
function projection({ alphabet_size: size, steps, gain, rate, decay }: ProjectionSettings, kernel: Table): Step {
  const [height, width] = kernel.shape;
  const vectors = centred(kernel.values, size);
  const halves = size === 2 ? vectors.filter((_, i) => i % 2 === 0) : vectors; // one vector and a sign
  const read = size === 2 ? readSigns : readBack;
  return ([given]) => {
    const row = given as Row;
    let result = row;
    let scale = 0;
    for (let step = 0; step < steps; step++) {
      const held = read(rowTimes(result, halves), halves, height, size);
      if (step === 0) {
        const along = Math.max(dot(held, row), fround(FLOOR));
        const across = fround(dot(held, held) - fround(along * along));
        scale = fround(along + fround(fround(fround(gain) * Math.max(across, 0)) / along));
      }
      const length = fround(rate / (1 + decay * step));
      result = result.map((value, i) => value + fround(length * fround(row[i] - fround(held[i] / scale))));
    }
    const responses = rowTimes(result, kernel.values);
    if (responses.length !== width)
      throw new ArtefactError(`projection: expected rows of ${height}, received ${result.length}`);
    return responses;
  };
}

function centred(kernel: Float32Array, size: number): Float32Array {
  const vectors = new Float32Array(kernel.length);
  for (let start = 0; start < kernel.length; start += size) {
    const mean = fround(sumOf(kernel, start, size) / size);
    for (let i = start; i < start + size; i++) vectors[i] = kernel[i] - mean;
  }
  return vectors;
}

/** Sum of the vectors `(K, M)` with the signs of the responses `(M,)`. */
function readSigns(responses: Row, vectors: Float32Array): Row {
  return timesColumn(vectors, new Float64Array(responses).map(Math.sign));
}

/** Sum of the vectors `(K, M Q)` with the largest responses `(M, Q)` of their positions; of equal ones, of all. */
function readBack(responses: Row, vectors: Float32Array, height: number, size: number): Row {
  const width = responses.length;
  const chosen: number[] = [];
  for (let start = 0; start < width; start += size) {
    const largest = responses[start + firstLargest(responses, start, size)];
    for (let i = start; i < start + size; i++) if (responses[i] === largest) chosen.push(i);
  }
  const sums = new Float32Array(height);
  for (let k = 0; k < height; k++) {
    let sum = 0;
    for (const place of chosen) sum += vectors[k * width + place];
    sums[k] = sum;
  }
  return sums;
}

/** Responses `(M, Q)` of a product frame with the codebook `(window d, Q)`. */
function product(codebook: Table, codeLength: number, hasBias: boolean, window: number): Step {
  const [height, size] = codebook.shape;
  const depth = height / window;
  const bias = new Float32Array(size);
  for (let k = 0; k < height; k++) {
    for (let j = 0; j < size; j++) bias[j] += fround(codebook.values[k * size + j] ** 2);
  }
  const pairs = window === 2 ? pairSums(codebook.values, depth, size) : undefined;
  return ([given]) => {
    const row = given as Row;
    const responses = new Float32Array(codeLength * size);
    for (let place = 0; place < codeLength; place++) {
      const block = new Float32Array(height);
      for (let part = 0; part < window; part++) {
        const from = ((place + part) % codeLength) * depth;
        block.set(row.subarray(from, from + depth), part * depth);
      }
      const found = rowTimes(block, codebook.values);
      responses.set(hasBias ? found.map((value, j) => value - fround(0.5 * bias[j])) : found, place * size);
    }
    return pairs === undefined ? responses : jointResponses(responses, pairs, codeLength, size);
  };
}

/** What neighbours `(Q, Q)` with these symbols are worth together. */
function pairSums(codebook: Float32Array, depth: number, size: number): Float32Array {
  const pairs = new Float32Array(size * size);
  for (let a = 0; a < size; a++) {
    for (let b = 0; b < size; b++) {
      let sum = 0;
      for (let k = 0; k < depth; k++) sum += codebook[(depth + k) * size + a] * codebook[k * size + b];
      pairs[a * size + b] = -sum;
    }
  }
  return pairs;
}

/** For each position and symbol the largest sum over a whole code, on a ring, that has this symbol there. */
function jointResponses(responses: Row, pairs: Float32Array, length: number, size: number): Row {
  const turned = Float32Array.from(pairs, (_, i) => pairs[(i % size) * size + Math.floor(i / size)]);
  const ahead = maxSums(responses, pairs, length, size);
  const behind = backwards(maxSums(backwards(responses, size), turned, length, size), size);
  return responses.map((value, i) => fround(value + ahead[i]) + behind[i]);
}

function backwards(responses: Row, size: number): Row {
  const length = responses.length / size;
  return responses.map((_, i) => responses[(length - 1 - Math.floor(i / size)) * size + (i % size)]);
}

/** Largest sum over the positions before each one, with every symbol there, `(M, Q)`; the ring is cut into arcs. */
function maxSums(responses: Row, pairs: Float32Array, length: number, size: number): Row {
  let arc = 1;
  for (let divisor = 1; divisor <= REACH; divisor++) if (length % divisor === 0) arc = divisor;
  const reach = Math.min(REACH, length);
  const found = new Float32Array(length * size);
  for (let first = 0; first < length; first += arc) {
    let sums = new Float32Array(size);
    for (let step = 0; step < reach + arc; step++) {
      if (step >= reach) found.set(sums, (first + step - reach) * size);
      const place = (((first + step - reach) % length) + length) % length;
      const next = new Float32Array(size).fill(Number.NEGATIVE_INFINITY);
      for (let a = 0; a < size; a++) {
        const here = fround(sums[a] + responses[place * size + a]);
        for (let b = 0; b < size; b++) next[b] = Math.max(next[b], fround(here + pairs[a * size + b]));
      }
      sums = next;
    }
  }
  return found;
}

/** Arrays of `head.bin`, in single precision. */
function readArrays(stated: Record<string, StatedArray>, data: Uint8Array): Record<string, Table> {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const tables: Record<string, Table> = Object.create(null) as Record<string, Table>;
  for (const [name, { dtype, shape, offset }] of Object.entries(stated)) {
    const width = dtype === "float16" ? 2 : dtype === "float32" ? 4 : 0;
    const count = shape.reduce((all, side) => all * side, 1);
    const isWhole = [offset, count].every((value) => Number.isSafeInteger(value) && value >= 0);
    if (!width || !isWhole || offset + width * count > data.length) {
      throw new ArtefactError(`head.bin: the array ${name} does not lie in its ${data.length} bytes; export it again`);
    }
    const at = (i: number): number =>
      width === 2 ? halfToNumber(view.getUint16(offset + 2 * i, true)) : view.getFloat32(offset + 4 * i, true);
    tables[name] = { values: Float32Array.from({ length: count }, (_, i) => at(i)), shape };
  }
  return tables;
}

/** IEEE 754 half precision. */
function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : (sign * fraction) / 2 ** 24;
}
