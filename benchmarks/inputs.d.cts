export interface LoraLinearCase {
  m: number;
  in: number;
  out: number;
  r: number;
  dtype: 'f32' | 'bf16';
}
export interface LoraLinearInputs {
  x: Float32Array;
  w: Float32Array;
  a: Float32Array;
  b: Float32Array;
  g: Float32Array;
  scale: number;
}
export function loraLinearInputs(testCase: LoraLinearCase): LoraLinearInputs;
