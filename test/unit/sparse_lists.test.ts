/** `every` skips the holes of a sparse list: each list that a program gives is looked at whole. */
import { rmSync } from 'node:fs';
import { CausalLM, tensor, writeSafetensors } from '../../lib/index';
import { normalizeLoRAConfig } from '../../lib/peft/config';
import { expectReject } from '../support/errors';
import { tinyModel } from '../support/tiny_model';

/** The item and a hole behind it. */
const sparse = <T>(item: T): T[] => Object.assign(new Array<T>(2), { 0: item });

let model: CausalLM;
beforeAll(async () => {
  const dir = await tinyModel();
  model = await CausalLM.fromPretrained(dir);
  rmSync(dir, { recursive: true });
});
afterAll(() => model.dispose());

test.each<[string, RegExp, () => unknown]>([
  ['a shape', /^\[reshape\] expected a list of dimensions/, () => tensor([1, 2]).reshape(sparse(2))],
  [
    'targetModules',
    /^\[LoRAConfig\] expected targetModules/,
    () => normalizeLoRAConfig({ targetModules: sparse('q_proj') }),
  ],
  [
    'messages',
    /^\[chat_template\] expected messages to be an array/,
    () => model.tokenizer.applyChatTemplate(sparse({ role: 'user', content: 'a' })),
  ],
  ['rows of ids', /expected ids to be number\[\]\[\]/, () => model.forward(sparse([1, 2]))],
  [
    'stop strings',
    /expected stop to be a non-empty string/,
    () => model.generate('a', { stop: sparse('b') }),
  ],
])('%s with a hole is ERR_ARGUMENT', async (_, sentence, run) => {
  await expectReject(Promise.resolve().then(run), 'ERR_ARGUMENT', sentence);
});

test('the shape of a tensor in a file with a hole is ERR_ARGUMENT', async () => {
  const x = { dtype: 'U8', shape: sparse(0), bytes: new Uint8Array(0) } as const;
  const sentence = /^\[writeSafetensors\] expected a shape of non-negative integers/;
  await expectReject(writeSafetensors('/nowhere/x', new Map([['x', x]])), 'ERR_ARGUMENT', sentence);
});
