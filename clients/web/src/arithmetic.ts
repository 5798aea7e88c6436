/** Sums and products in the precision and order of NumPy, so that near ties fall as they do there. */

const BLOCK = 128;
const LANES = 8;
const UNROLLED = 4;
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
  const whole = row.length - (row.length % UNROLLED);
  for (let k = 0; k < whole; k += UNROLLED) {
    const [a, b, c, d] = [row[k], row[k + 1], row[k + 2], row[k + 3]];
    const [first, second, third, fourth] = [k, k + 1, k + 2, k + 3].map((line) => line * width);
    for (let j = 0; j < width; j++) {
      sums[j] += a * matrix[first + j] + b * matrix[second + j] + (c * matrix[third + j] + d * matrix[fourth + j]);
    }
  }
  for (let k = whole; k < row.length; k++) {
    for (let j = 0, at = k * width; j < width; j++, at++) sums[j] += row[k] * matrix[at];
  }
  return new Float32Array(sums);
}

/** Matrix `(K, N)` times column `(N,)`, accumulated in double precision. */
export function timesColumn(matrix: Float32Array, column: Float64Array): Float32Array {
  const width = column.length;
  const result = new Float32Array(matrix.length / width);
  const whole = width - (width % UNROLLED);
  for (let k = 0; k < result.length; k++) {
    const start = k * width;
    let [a, b, c, d] = [0, 0, 0, 0];
    for (let j = 0; j < whole; j += UNROLLED) {
      a += matrix[start + j] * column[j];
      b += matrix[start + j + 1] * column[j + 1];
      c += matrix[start + j + 2] * column[j + 2];
      d += matrix[start + j + 3] * column[j + 3];
    }
    for (let j = whole; j < width; j++) a += matrix[start + j] * column[j];
    result[k] = a + b + (c + d);
  }
  return result;
}

/** `values` divided by their length. */
export function unit(values: Float32Array, floor = 0): Float32Array {
  const length = fround(Math.sqrt(Math.max(dot(values, values), fround(floor))));
  return values.map((value) => value / length);
}
