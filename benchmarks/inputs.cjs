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

/** Ids of texts whose lengths lie between two, both included. */
function shortTexts(count, [least, most], vocabulary) {
  return Array.from({ length: count }, (_, text) =>
    Array.from(
      { length: least + (hash(text) % (most - least + 1)) },
      (_, i) => hash(imul(text, 4096) + i) % vocabulary,
    ),
  );
}

/** q, y and g are [1, tokens, heads, d], k and v [1, tokens, kvHeads, d]. */
function attentionInputs({ tokens, heads, kvHeads, d }) {
  const [own, shared] = [tokens * heads * d, tokens * kvHeads * d];
  return { q: uniform(own, 1, 2), k: uniform(shared, 2, 2), v: uniform(shared, 3), g: uniform(own, 4) };
}

/** x is [1, tokens, 3·channels] for a gated one, else [1, tokens, channels], w [channels, taps]. */
function shortConvInputs({ tokens, channels, taps, form }) {
  const parts = form === 'gated' ? 3 : 1;
  return {
    x: uniform(tokens * parts * channels, 1, 2),
    w: uniform(channels * taps, 2),
    g: uniform(tokens * channels, 3),
  };
}

/** q, k, v and y are [1, tokens, heads, d], the decay and how much is written [1, tokens, heads]. */
function deltaRuleInputs({ tokens, heads, d }) {
  const all = tokens * heads * d;
  const decay = uniform(tokens * heads, 5, 0.5).map((x) => x - 0.5);
  const beta = uniform(tokens * heads, 6, 0.5).map((x) => x + 0.5);
  const [q, k, v, g] = [uniform(all, 1, 2), uniform(all, 2, 2), uniform(all, 3), uniform(all, 4)];
  return { q, k, v, g, decay, beta };
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

module.exports = {
  attentionInputs,
  deltaRuleInputs,
  loraLinearCases,
  loraLinearInputs,
  shortConvInputs,
  shortTexts,
};
