/** Sums and products in the precision and order of NumPy, so that near ties fall as they do there. */

const BLOCK = 128;
const LANES = 8;
const { fround } = Math;

/** Sum of `count` numbers from `start` on in single precision, pairwise as `numpy.sum` adds them. */
export function sumOf(values: Float32Array, start = 0, count = values.length - start): number {
  if (count < LANES) {
    let sum = 0;
    for (let i = start; i < start + count; i++) sum = fround(sum + values[i]);
    return sum;
  }
  if (count > BLOCK) {
    const half = Math.floor(count / 2) - (Math.floor(count / 2) % LANES);
    return fround(sumOf(values, start, half) + sumOf(values, start + half, count - half));
  }
  const lanes = values.slice(start, start + LANES);
  const whole = count - (count % LANES);
  for (let i = LANES; i < whole; i++) lanes[i % LANES] += values[start + i];
  const [a, b, c, d, e, f, g, h] = lanes;
  let sum = fround(fround(fround(a + b) + fround(c + d)) + fround(fround(e + f) + fround(g + h)));
  for (let i = whole; i < count; i++) sum = fround(sum + values[start + i]);
  return sum;
}

/** Dot product of two rows: each term is rounded, then they are summed. */
export function dot(first: Float32Array, second: Float32Array): number {
  return sumOf(first.map((value, i) => value * second[i]));
}

/** Row `(K,)` times matrix `(K, N)`, accumulated in double precision. */
export function rowTimes(row: Float32Array, matrix: Float32Array): Float32Array {
  const width = matrix.length / row.length;
  const sums = new Float64Array(width);
  for (let k = 0; k < row.length; k++) {
    const factor = row[k];
    if (factor === 0) continue;
    for (let j = 0, at = k * width; j < width; j++, at++) sums[j] += factor * matrix[at];
  }
  return Float32Array.from(sums);
}

/** `values` divided by their length. */
export function unit(values: Float32Array, floor = 0): Float32Array {
  const length = fround(Math.sqrt(Math.max(dot(values, values), fround(floor))));
  return values.map((value) => value / length);
}
