// The sound of a telephone line: µ-law, sample rates, and a bad line. Pure: no clock, no browser.

export const RATE = 8000;
export const FRAME = 160; // samples: 20 ms

// --- µ-law (G.711) ---

/** Return the µ-law byte of a sample from -1 to 1. */
export function encode(sample) {
  let value = Math.round(Math.max(-1, Math.min(1, sample)) * 32767) >> 2;
  const mask = value < 0 ? 0x7f : 0xff;
  value = Math.min(Math.abs(value), 8159) + 33;
  const segment = Math.max(0, 31 - Math.clz32(value) - 5);
  return (segment > 7 ? 0x7f : (segment << 4) | ((value >> (segment + 1)) & 0x0f)) ^ mask;
}

const LEVELS = Float32Array.from({ length: 256 }, (_, byte) => {
  const code = ~byte & 0xff;
  const size = ((((code & 0x0f) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84;
  return (code & 0x80 ? -size : size) / 32768;
});

/** Return the sample of a µ-law byte. */
export function decode(byte) {
  return LEVELS[byte];
}

// --- sample rates ---

const ZEROS = 12; // zero crossings of the filter on each side: 1.5 ms at 8 kHz
const MAX_PHASES = 512;

/** A stream of samples at another rate. A windowed sinc keeps the frequencies that the lower rate can carry. */
export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    const width = Math.min(1, to / from);
    const cutoff = 0.92 * width;
    this.half = Math.ceil(ZEROS / width);
    this.phases = Math.min(to / gcd(from, to), MAX_PHASES);
    this.kernels = Array.from({ length: this.phases + 1 }, (_, phase) =>
      kernel(this.half, cutoff, phase / this.phases),
    );
    this.samples = new Float32Array(8192);
    this.length = this.half;
    this.position = this.half; // of the next sample, among the kept ones
  }

  /** Return how many samples must be pushed before `count` can be pulled. */
  needs(count) {
    if (count === 0) return 0;
    const last = Math.floor(this.position + (count - 1) * this.step + 1e-9);
    return Math.max(0, last + this.half + 1 - this.length);
  }

  push(samples) {
    if (this.length + samples.length > this.samples.length) {
      const larger = new Float32Array(2 * (this.length + samples.length));
      larger.set(this.samples.subarray(0, this.length));
      this.samples = larger;
    }
    this.samples.set(samples, this.length);
    this.length += samples.length;
  }

  /** Fill `output` as far as there are samples; return how many it has. */
  pull(output) {
    let count = 0;
    while (count < output.length) {
      const at = Math.floor(this.position + 1e-9);
      if (at + this.half >= this.length) break;
      const phase = Math.round(Math.max(0, this.position - at) * this.phases);
      const weights = this.kernels[phase];
      const first = at - this.half + 1;
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap += 1) sum += weights[tap] * this.samples[first + tap];
      output[count] = sum;
      count += 1;
      this.position += this.step;
    }
    const done = Math.floor(this.position) - this.half;
    if (done > 0) {
      this.samples.copyWithin(0, done, this.length);
      this.length -= done;
      this.position -= done;
    }
    return count;
  }
}

function kernel(half, cutoff, offset) {
  const weights = Float32Array.from({ length: 2 * half }, (_, tap) => {
    const distance = tap - half + 1 - offset;
    const turn = Math.PI * distance * cutoff;
    const window = Math.abs(distance) >= half ? 0 : 0.5 + 0.5 * Math.cos((Math.PI * distance) / half);
    return (turn === 0 ? 1 : Math.sin(turn) / turn) * window;
  });
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}

function gcd(one, other) {
  return other === 0 ? one : gcd(other, one % other);
}

// --- a bad line ---

export const MAX_DELAY_MS = 1000;
const NOISE = 0.05; // the amplitude of the loudest noise: 26 dB below full scale

/** One direction of a line with delay, loss and noise. Lost audio becomes silence, 20 ms at a time. */
export class Line {
  constructor(random = Math.random) {
    this.random = random;
    this.kept = new Float32Array((MAX_DELAY_MS / 1000) * RATE);
    this.at = 0;
    this.left = 0; // samples until the next decision about loss
    this.set({});
  }

  /** `delay` in milliseconds, `loss` and `noise` from 0 to 1. */
  set({ delay = 0, loss = 0, noise = 0 }) {
    const samples = Math.round((Math.max(0, Math.min(delay, MAX_DELAY_MS)) / 1000) * RATE);
    if (samples !== this.delay) {
      this.kept.fill(0);
      this.at = 0;
    }
    this.delay = samples;
    this.loss = loss;
    this.noise = noise;
  }

  /** Pass samples through the line, in place. */
  pass(samples) {
    for (let index = 0; index < samples.length; index += 1) {
      if (this.left === 0) {
        this.lost = this.loss > 0 && this.random() < this.loss;
        this.left = FRAME;
      }
      this.left -= 1;
      let sample = this.lost ? 0 : samples[index];
      if (this.noise > 0) sample += (this.random() * 2 - 1) * this.noise * NOISE;
      if (this.delay > 0) {
        const late = this.kept[this.at];
        this.kept[this.at] = sample;
        this.at = (this.at + 1) % this.delay;
        sample = late;
      }
      samples[index] = sample;
    }
  }
}

/** Return the level of samples from 0 (silence, or below -60 dB) to 1 (full scale). */
export function level(samples) {
  let power = 0;
  for (const sample of samples) power += sample * sample;
  const decibels = 10 * Math.log10(power / samples.length + 1e-9);
  return Math.max(0, Math.min(1, 1 + decibels / 60));
}
