/** The kinds of change that LoRA chooses from, by name. */
import type { DeltaKind } from './delta';
import { dora } from './dora';
import { lora } from './lora';
import { whole } from './whole';

export const deltaKinds = { lora, dora, whole } as const satisfies Record<string, DeltaKind>;

export type DeltaKindName = keyof typeof deltaKinds;
