import {
  LoRALinear,
  tensor,
  type CausalLM,
  type Tensor,
  type TensorValues,
  type TrainerOptions,
} from 'lora-native';
import { compareMethods, type Comparison } from 'lora-native/compare';
import { createOpenAIHandler, type OpenAIHandlerOptions } from 'lora-native/serve';
import { Trainer, type TrainerEvent } from 'lora-native/train';
// @ts-expect-error there is no default, as there is none at run time
import wrong from 'lora-native';
// @ts-expect-error nor in another entry
import wrongToo from 'lora-native/train';
// @ts-expect-error it is in lora-native/serve
import type { ApiKey } from 'lora-native';

using layer = new LoRALinear({ inFeatures: 2, outFeatures: 2, r: 1 });
export const up: Tensor = layer.up;
export const y: Promise<TensorValues> = layer.forward(tensor([[1, 2]])).data();
// @ts-expect-error an unknown option
export const other = new LoRALinear({ inFeatures: 2, outFeatures: 2, rank: 1 });
// A value that may be missing needs no detour, under exactOptionalPropertyTypes too.
export const options = (model: CausalLM, maxSteps: number | undefined): TrainerOptions => ({
  model,
  data: [],
  maxSteps,
});
// @ts-expect-error what the package uses itself is not among its types
export const handle = layer.up.handle;
// The entries have the types of the main one.
export const served = (model: CausalLM, options: OpenAIHandlerOptions) => createOpenAIHandler(model, options);
export const compared: Promise<Comparison> = compareMethods({
  model: '',
  data: [],
  evalData: [],
  budget: { steps: 1 },
  outDir: '',
});
export async function* trained(options: TrainerOptions): AsyncGenerator<TrainerEvent> {
  yield* new Trainer(options).run();
}
void [wrong, wrongToo];
export type Key = ApiKey;
