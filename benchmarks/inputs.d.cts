export interface LoraLinearShape {
  m: number;
  in: number;
  out: number[];
  r: number;
}
export interface LoraLinearCase extends LoraLinearShape {
  /** What tells it from the others: model, layers, dtype, m and r. */
  id: string;
  model: string;
  layer: string;
  dtype: 'f32' | 'bf16';
  quick: boolean;
  /** The model whose case of the same dtype it is compared with. */
  against?: string;
}
export interface LoraLinearInputs {
  x: Float32Array;
  branches: { w: Float32Array; a: Float32Array; b: Float32Array; g: Float32Array }[];
  scale: number;
}
export interface AttentionShape {
  tokens: number;
  heads: number;
  kvHeads: number;
  d: number;
}
export function loraLinearInputs(shape: LoraLinearShape): LoraLinearInputs;
export function loraLinearCases(cases: object, kind?: 'lora_linear' | 'lora_linear_cold'): LoraLinearCase[];
export function attentionInputs(shape: AttentionShape): Record<'q' | 'k' | 'v' | 'g', Float32Array>;
