/**
 * The best approximation of a product P·Q of two thin factors by one of lower rank (Eckart–Young), without the product itself: with
 * P = U₁·R₁ and Qᵀ = U₂·R₂ the singular values of P·Q are those of the small R₁·R₂ᵀ. All in double.
 */

/** A matrix as its columns. */
type Columns = readonly Float64Array[];

const dot = (x: Float64Array, y: Float64Array, from = 0): number => {
  let sum = 0;
  for (let i = from; i < x.length; i++) sum += x[i]! * y[i]!;
  return sum;
};

/** x += factor · y, from an element on. */
function addTo(x: Float64Array, factor: number, y: Float64Array, from = 0): void {
  for (let i = from; i < x.length; i++) x[i]! += factor * y[i]!;
}

/** Householder's QR: `q` has min(rows, columns) orthonormal columns, and column j of `r` those of the product q·r. Destroys its argument. */
function* qr(a: Columns): Generator<void, { q: Columns; r: Columns }, void> {
  const rows = a[0]!.length;
  const count = Math.min(rows, a.length);
  const mirrors: { v: Float64Array; from: number; length: number }[] = [];
  const r = a.map(() => new Float64Array(count));
  for (const [j, column] of a.entries()) {
    for (const { v, from, length } of mirrors)
      if (length > 0) addTo(column, (-2 * dot(v, column, from)) / length, v, from);
    for (let i = 0; i < Math.min(j, count); i++) r[j]![i] = column[i]!;
    if (j < count) {
      const v = column.slice();
      v.fill(0, 0, j);
      const norm = Math.sqrt(dot(v, v, j));
      r[j]![j] = v[j]! > 0 ? -norm : norm;
      v[j]! -= r[j]![j];
      mirrors.push({ v, from: j, length: dot(v, v, j) });
    }
    yield;
  }
  const q: Float64Array[] = [];
  for (let j = 0; j < count; j++) {
    const column = new Float64Array(rows);
    column[j] = 1;
    for (const { v, from, length } of mirrors.toReversed())
      if (length > 0) addTo(column, (-2 * dot(v, column, from)) / length, v, from);
    q.push(column);
    yield;
  }
  return { q, r };
}

/** One-sided Jacobi: turns pairs of columns until all are orthogonal. Gives the columns A·V, whose lengths are the singular values, and V. */
function* jacobi(a: Columns): Generator<void, { turned: Columns; v: Columns }, void> {
  const turned = a.map((column) => column.slice());
  const v = a.map((_, j) => Float64Array.from(a, (_column, i) => (i === j ? 1 : 0)));
  for (let sweep = 0, most = 1; sweep < 60 && most > 1e-15; sweep++) {
    most = 0;
    for (let i = 0; i < a.length; i++) {
      for (let j = i + 1; j < a.length; j++) {
        const [x, y] = [turned[i]!, turned[j]!];
        const [xx, yy, xy] = [dot(x, x), dot(y, y), dot(x, y)];
        if (xy === 0) continue;
        most = Math.max(most, Math.abs(xy) / Math.sqrt(xx * yy));
        const zeta = (yy - xx) / (2 * xy);
        const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const cosine = 1 / Math.hypot(1, tangent);
        for (const [left, right] of [[x, y] as const, [v[i]!, v[j]!] as const])
          turn(left, right, cosine, tangent);
      }
      yield;
    }
  }
  return { turned, v };
}

function turn(x: Float64Array, y: Float64Array, cosine: number, tangent: number): void {
  for (let i = 0; i < x.length; i++) {
    const [a, b] = [x[i]!, y[i]!];
    x[i] = cosine * (a - tangent * b);
    y[i] = cosine * (b + tangent * a);
  }
}

/** Σ columns[i] · by[i]. */
function combined(columns: Columns, by: Float64Array): Float64Array {
  const sum = new Float64Array(columns[0]!.length);
  for (const [i, column] of columns.entries()) addTo(sum, by[i]!, column);
  return sum;
}

/**
 * Columns u [out] and rows v [in] of at most `rank` pairs, so that Σ u·vᵀ is the best approximation of Σ left[i]·right[i]ᵀ; v are orthonormal.
 * Yields where it may be interrupted.
 */
export function* truncatedProduct(
  left: Columns,
  right: Columns,
  rank: number,
): Generator<void, { u: Columns; v: Columns }, void> {
  const p = yield* qr(left.map((column) => column.slice()));
  const q = yield* qr(right.map((column) => column.slice()));
  // Column j of R₁·R₂ᵀ: Σᵢ R₂[j, i] · R₁[:, i].
  const core = q.q.map((_, j) =>
    combined(
      p.r,
      Float64Array.from(q.r, (column) => column[j]!),
    ),
  );
  const { turned, v } = yield* jacobi(core);
  const order = turned
    .map((column, j) => ({ j, size: dot(column, column) }))
    .sort((a, b) => b.size - a.size)
    .slice(0, rank);
  const u: Float64Array[] = [];
  const rows: Float64Array[] = [];
  for (const { j } of order) {
    u.push(combined(p.q, turned[j]!));
    rows.push(combined(q.q, v[j]!));
    yield;
  }
  return { u, v: rows };
}
