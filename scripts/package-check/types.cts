import { LoRALinear, tensor, type Tensor, type TensorValues } from 'lora-native';
import { createOpenAIHandler, type OpenAIHandler } from 'lora-native/serve';
// @ts-expect-error there is no default, as there is none at run time
import wrong from 'lora-native';
// @ts-expect-error nor in another entry
import wrongToo from 'lora-native/train';

using layer = new LoRALinear({ inFeatures: 2, outFeatures: 2, r: 1 });
export const up: Tensor = layer.up;
export const y: Promise<TensorValues> = layer.forward(tensor([[1, 2]])).data();
// @ts-expect-error an unknown option
export const other = new LoRALinear({ inFeatures: 2, outFeatures: 2, rank: 1 });
export const handler: (...options: Parameters<typeof createOpenAIHandler>) => OpenAIHandler =
  createOpenAIHandler;
void [wrong, wrongToo];
