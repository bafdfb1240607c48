// The chart of a results file as SVG, in the colours of a light or a dark page.
import { digits, ratioTo } from './numbers.mjs';

const [width, labelWidth, barHeight, gap] = [760, 250, 16, 8];
const escape = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);

const style = `
  text { font: 13px system-ui, sans-serif; fill: #24292f; }
  .title { font-weight: 600; } .small { font-size: 11px; }
  .ours { fill: #0969da; } .torch { fill: #8c959f; } .compile { fill: #bf8700; }
  .one { stroke: #24292f; stroke-dasharray: 3 3; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .ours { fill: #58a6ff; } .torch { fill: #6e7681; } .compile { fill: #d29922; } .one { stroke: #e6edf3; }
  }`;

class Drawing {
  #y = 0;
  #parts = [];
  title(text) {
    this.#y += 30;
    this.#parts.push(`<text class="title" x="0" y="${this.#y}">${escape(text)}</text>`);
    this.#y += 12;
  }
  /** Bars { of, value, text } of one label; `most` fills the width. */
  bars(label, bars, most) {
    const room = width - labelWidth - 130;
    const middle = this.#y + (bars.length * (barHeight + 2)) / 2 + 4;
    this.#parts.push(`<text x="${labelWidth - 8}" y="${middle}" text-anchor="end">${escape(label)}</text>`);
    for (const { of, value, text } of bars) {
      const long = Math.max(1, (room * value) / most).toFixed(1);
      this.#parts.push(
        `<rect class="${of}" x="${labelWidth}" y="${this.#y}" width="${long}" height="${barHeight}" rx="2"/>`,
        `<text class="small" x="${labelWidth + Number(long) + 6}" y="${this.#y + 12}">${escape(text)}</text>`,
      );
      this.#y += barHeight + 2;
    }
    this.#y += gap;
  }
  /** A line at `value` from `top` down to here. */
  mark(value, most, top) {
    const x = (labelWidth + ((width - labelWidth - 130) * value) / most).toFixed(1);
    this.#parts.push(`<line class="one" x1="${x}" x2="${x}" y1="${top}" y2="${this.#y - gap}"/>`);
  }
  get y() {
    return this.#y;
  }
  toString() {
    const height = this.#y + 8;
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img">\n<style>${style}\n</style>\n${this.#parts.join('\n')}\n</svg>\n`;
  }
}

const classes = { ours: 'ours', 'torch lean': 'torch', 'torch compile': 'compile' };
const names = { ours: 'lora-native', 'torch lean': 'PyTorch', 'torch compile': 'torch.compile' };

/** Whole steps in tokens per second, then layers in our time ÷ PyTorch's. */
export function chart({ rows }) {
  const drawing = new Drawing();
  const steps = rows.filter(
    ({ kind, what, case: id }) => kind === 'training_step' && what === 'step' && !id.includes('busy'),
  );
  if (steps.length > 0) {
    drawing.title('Training step, r = 16 on all linear layers: tokens per second');
    const rate = (row, { median }) => row.tokens / median;
    const most = Math.max(
      ...steps.flatMap((row) => [row.ours, ...Object.values(row.rivals)].map((of) => rate(row, of))),
    );
    for (const row of steps) {
      const all = Object.entries({ ours: row.ours, ...row.rivals });
      const bars = all.map(([name, of]) => ({
        of: classes[name],
        value: rate(row, of),
        text: `${digits(rate(row, of))} ${names[name]}`,
      }));
      drawing.bars(row.case, bars, most);
    }
  }
  const layers = rows.filter(
    ({ kind, what, rivals, case: id }) =>
      kind === 'lora_linear' && what === 'step' && rivals.torch && / m=512 r=16$/.test(id),
  );
  if (layers.length > 0) {
    drawing.title('Layers, 512 rows, r = 16, forward + backward: our time ÷ PyTorch’s (below 1 is faster)');
    const top = drawing.y;
    const most = Math.max(1, ...layers.map((row) => ratioTo(row, row.rivals.torch)));
    for (const row of layers) {
      const value = ratioTo(row, row.rivals.torch);
      drawing.bars(row.case.replace(/ m=.*/, ''), [{ of: 'ours', value, text: digits(value) }], most);
    }
    drawing.mark(1, most, top);
  }
  return drawing.toString();
}
