// The inputs of a case, the same for every provider and for the numerics tests: uniform in [−1, 1), from a
// seeded integer hash.
// A local name: in jest's realm a global is looked up slowly, millions of times.
const { imul } = Math;

const hash = (n) => {
  n = imul(n ^ (n >>> 16), 0x45d9f3b);
  n = imul(n ^ (n >>> 16), 0x45d9f3b);
  return (n ^ (n >>> 16)) >>> 0;
};

function uniform(length, seed, scale = 1) {
  const out = new Float32Array(length);
  for (let i = 0; i < length; i++) out[i] = (hash(i + imul(seed, 0x9e3779b9)) / 2147483648 - 1) * scale;
  return out;
}

/** x [m, in], w [out, in], a [out, r], b [r, in], g [m, out]; w, a and b are scaled so that y is of order 1. */
function loraLinearInputs({ m, in: k, out: n, r }) {
  return {
    x: uniform(m * k, 1),
    w: uniform(n * k, 2, 1 / Math.sqrt(k)),
    a: uniform(n * r, 3, 1 / Math.sqrt(r)),
    b: uniform(r * k, 4, 1 / Math.sqrt(k)),
    g: uniform(m * n, 5),
    scale: 2,
  };
}

module.exports = { loraLinearInputs };
