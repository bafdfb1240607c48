/** What a LoRA holds, and the batches that it takes: where a run goes beyond, it is told once. */
import type { DataSource } from '../data/example';
import type { LoRAConfig } from '../peft/config';
import { grouped } from './facts';
import type { ResolvedOptions } from './options';
import type { TrainingSubject } from './subject';

/** Bits that a trained parameter holds. Allen-Zhu and Li, "Physics of Language Models: Part 3.3", 2024. */
const bitsOfParameter = 2;
/** Bits of a token that counts, about: a loss of 0.69 nats. */
const bitsOfToken = 1;
/** The most examples of a step with which LoRA learns as well as full fine-tuning. */
const mostExamples = 32;

interface Run {
  readonly options: ResolvedOptions;
  readonly subject: TrainingSubject;
  readonly data: DataSource<unknown>;
  readonly trainable: number;
}

/** How many different tokens that count the run meets; undefined where the data does not say. */
function tokensMet({ options, data }: Run): number | undefined {
  const { tokens, length } = data as Partial<Record<'tokens' | 'length', unknown>>;
  if (typeof tokens !== 'number') return undefined;
  const { totalSteps, batchSize, batchesPerStep, packing, maxTokens = Infinity } = options;
  const isPart = totalSteps !== undefined && typeof length === 'number' && !packing;
  const part = isPart ? Math.min(1, (totalSteps * batchSize * batchesPerStep) / length) : 1;
  return Math.min(part * tokens, maxTokens);
}

/**
 * What supervised fine-tuning of a LoRA goes beyond: 2 bits for each trained parameter, where a token that counts brings about 1 bit however often it
 * comes again; and 32 examples a step. Both from Schulman et al., "LoRA Without Regret", Thinking Machines, 2025.
 */
export function loraLimits(run: Run): { code: string; message: string }[] {
  const { options, subject, trainable } = run;
  const { adapter } = subject;
  if (adapter?.method !== 'lora' || options.objective !== 'sft') return [];
  const { r } = adapter.config as LoRAConfig;
  const found: { code: string; message: string }[] = [];
  const bits = bitsOfToken * (tokensMet(run) ?? 0);
  const held = bitsOfParameter * trainable;
  if (bits > held)
    found.push({
      code: 'LORA_RANK_SMALL',
      message:
        `the ${grouped(bits / bitsOfToken)} tokens that count bring about ${grouped(bits)} bits, and the ${grouped(trainable)} parameters of rank ${r} hold about ${grouped(held)}: ` +
        `the adapter may learn less than full fine-tuning; r of ${Math.ceil((r * bits) / held)} holds them`,
    });
  const examples = options.batchSize * options.batchesPerStep;
  if (examples > mostExamples)
    found.push({
      code: 'LORA_BATCH_LARGE',
      message: `a step has ${examples} ${options.packing ? 'rows' : 'examples'}: with more than ${mostExamples} LoRA learns less from each than full fine-tuning does, whatever its rank`,
    });
  return found;
}
