/** Chat models whose greedy answers are known, and adapters that change them. */
import { CausalLM, tensor, type Tensor } from '../../lib/index';
import { byteIds, chainModel, eos } from './chain_model';
import type { TinyModelOptions } from './tiny_model';

/** Opens the answer of the assistant in the tiny model's template. */
const assistant = 259;

/** Writes a model that answers with `text`, of different bytes; `endless`: the last one comes again and again. */
export function answeringModel(
  text: string,
  { endless = false, ...options }: TinyModelOptions & { endless?: boolean } = {},
): Promise<string> {
  const generation = { do_sample: false, ...options.generation };
  return chainModel([assistant, ...byteIds(text), ...(endless ? [] : [eos])], { ...options, generation });
}

/** Writes an adapter with which that model answers with another text, of different bytes. */
export async function answeringAdapter(dir: string, text: string, out: string): Promise<string> {
  const model = await CausalLM.fromPretrained(dir);
  const chain = [assistant, ...byteIds(text), eos];
  const links = chain.length - 1;
  const adapter = model.addAdapter({ r: links, loraAlpha: links, targetModules: ['lm_head'] });
  const state = adapter.stateDict() as { tensors: Record<string, Tensor> };
  for (const [name, old] of Object.entries(state.tensors)) {
    const values = new Float32Array(old.numel);
    const [rows, columns] = old.shape as [number, number];
    // up has a column for each link, at its next token, down a row, at the token before.
    for (let i = 0; i < links; i++)
      if (columns === links) values[chain[i + 1]! * columns + i] = 10;
      else values[i * columns + chain[i]!] = 1;
    if (rows !== links && columns !== links) throw new Error(`unexpected shape of ${name}`);
    state.tensors[name] = tensor(values, { shape: old.shape });
    old.dispose();
  }
  adapter.loadStateDict(state);
  for (const t of Object.values(state.tensors)) t.dispose();
  await adapter.save(out);
  await model.dispose();
  return out;
}
