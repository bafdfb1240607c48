/** The tables of the rotations of a model's layers. Angles are computed in double and rounded once, so that a table does not depend on the device. */
import type { Device } from '../../native/device';
import type { RopeAngles } from '../../ops/rope';
import { tensor } from '../../tensor/create';
import { rawView } from '../../tensor/raw';
import { keep, noGrad } from '../../tensor/scope';
import { attentionLayers, type AttentionShape, type LayerShape } from '../config/model_config';
import { inverseFrequencies, tableStart, type RopeConfig } from '../config/rope';
import { QueryScales } from './query_scales';

/**
 * cos and sin [positions, w / 2] on a device, w the rotated numbers of a head; grows when a longer sequence asks for it. longrope has a table for
 * short texts, and below it one for long texts: `tableStart` (config/rope.ts) says where the rows of a text begin.
 */
export class RopeTable {
  #capacity = 0;
  #table: RopeAngles | undefined;

  constructor(
    private readonly config: RopeConfig,
    private readonly headDim: number,
    private readonly device: Device,
  ) {}

  /** A table of at least `positions` rows for each text. */
  upTo(positions: number): RopeAngles {
    if (this.#table && positions <= this.#capacity) return this.#table;
    this.dispose();
    this.#capacity = Math.max(256, 2 ** Math.ceil(Math.log2(positions)));
    const { config, headDim, device } = this;
    const { scaling } = config;
    const parts =
      scaling.type === 'longrope'
        ? [
            { inv: inverseFrequencies(config, headDim), rows: scaling.originalLength },
            { inv: inverseFrequencies(config, headDim, true), rows: this.#capacity },
          ]
        : [{ inv: inverseFrequencies(config, headDim), rows: this.#capacity }];
    const factor = 'attentionFactor' in scaling ? scaling.attentionFactor : 1;
    const shape = [parts.reduce((sum, { rows }) => sum + rows, 0), parts[0]!.inv.length];
    const cos = new Float32Array(shape[0]! * shape[1]!);
    const sin = new Float32Array(cos.length);
    let at = 0;
    for (const { inv, rows } of parts)
      for (let p = 0; p < rows; p++)
        for (const f of inv) {
          cos[at] = Math.cos(p * f) * factor;
          sin[at++] = Math.sin(p * f) * factor;
        }
    this.#table = noGrad(() => ({
      cos: keep(tensor(cos, { shape, device })),
      sin: keep(tensor(sin, { shape, device })),
    }));
    return this.#table;
  }

  dispose(): void {
    this.#table?.cos.dispose();
    this.#table?.sin.dispose();
    this.#table = undefined;
  }
}

/** The tables of all layers: those that rotate alike share one. */
export class RopeTables {
  /** Where the rows of a text of so many positions begin in the tables of longrope; undefined: no layer has one. */
  readonly start: ((positions: number) => number) | undefined;
  /** Factors on queries; undefined: no layer has them. */
  readonly scales: QueryScales | undefined;
  readonly #tables: readonly RopeTable[];
  /** Of each layer, which of them is its own; −1 without attention. */
  readonly #ofLayer: readonly number[];

  constructor(layers: readonly LayerShape[], device: Device) {
    const attention = attentionLayers({ layers });
    const keyOf = ({ rope, headDim }: AttentionShape): string => JSON.stringify([rope, headDim]);
    const keys = attention.map(keyOf);
    const long = attention.find(({ rope }) => rope.scaling.type === 'longrope')?.rope;
    const growing = attention.find(({ rope }) => rope.queryScale)?.rope.queryScale;
    this.scales = growing && new QueryScales(growing, device);
    this.start = long && ((positions) => tableStart(long, positions));
    const distinct = [...new Set(keys)];
    this.#ofLayer = layers.map((layer) => (layer.kind === 'attention' ? distinct.indexOf(keyOf(layer)) : -1));
    this.#tables = distinct.map((key) => {
      const { rope, headDim } = attention[keys.indexOf(key)]!;
      return new RopeTable(rope, headDim, device);
    });
  }

  /** Makes tables of at least `positions` rows. */
  prepare(positions: number): void {
    for (const table of this.#tables) table.upTo(positions);
    this.scales?.upTo(positions);
  }

  /** Views of the tables for one call, since a longer call between two of its blocks replaces them. */
  views(positions: number): { readonly ofLayer: (index: number) => RopeAngles; dispose(): void } {
    const views = this.#tables.map((table) => {
      const { cos, sin } = table.upTo(positions);
      return { cos: rawView(cos, 0, cos.shape), sin: rawView(sin, 0, sin.shape) };
    });
    return {
      ofLayer: (index) => views[this.#ofLayer[index]!]!,
      dispose() {
        for (const { cos, sin } of views) {
          cos.dispose();
          sin.dispose();
        }
      },
    };
  }

  dispose(): void {
    for (const table of this.#tables) table.dispose();
    this.scales?.dispose();
  }
}
