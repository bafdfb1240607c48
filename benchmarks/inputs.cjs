// The cases of lora_linear and their inputs, the same for every provider and for the numerics tests: uniform in
// [−1, 1), from a seeded integer hash.
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

/**
 * x [m, in] and, for each layer that reads it, w [out, in], a [out, r], b [r, in], g [m, out]; w, a and b are scaled so that y
 * is of order 1.
 */
function loraLinearInputs({ m, in: k, out, r }) {
  const branches = out.map((n, i) => ({
    w: uniform(n * k, 10 * i + 2, 1 / Math.sqrt(k)),
    a: uniform(n * r, 10 * i + 3, 1 / Math.sqrt(r)),
    b: uniform(r * k, 10 * i + 4, 1 / Math.sqrt(k)),
    g: uniform(m * n, 10 * i + 5),
  }));
  return { x: uniform(m * k, 1), branches, scale: 2 };
}

/** q, y and g are [1, tokens, heads, d], k and v [1, tokens, kvHeads, d]. */
function attentionInputs({ tokens, heads, kvHeads, d }) {
  const [own, shared] = [tokens * heads * d, tokens * kvHeads * d];
  return { q: uniform(own, 1, 2), k: uniform(shared, 2, 2), v: uniform(shared, 3), g: uniform(own, 4) };
}

/** The cases of lora_linear or lora_linear_cold of cases.json, one for each combination, without repetitions. */
function loraLinearCases(cases, kind = 'lora_linear') {
  const found = new Map();
  for (const { layers, m: ms, r: rs, dtype: dtypes, quick = false, against } of cases[kind])
    for (const wanted of layers)
      for (const [model, shapes] of Object.entries(cases.layers))
        for (const [layer, shape] of Object.entries(shapes)) {
          if (wanted !== model && wanted !== `${model} ${layer}`) continue;
          for (const m of ms)
            for (const r of rs)
              for (const dtype of dtypes) {
                const id = `${model} ${layer} ${dtype} m=${m} r=${r}`;
                if (!found.has(id))
                  found.set(id, { id, model, layer, m, r, dtype, ...shape, quick, against });
              }
        }
  return [...found.values()];
}

module.exports = { attentionInputs, loraLinearCases, loraLinearInputs };
