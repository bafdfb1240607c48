/** The kinds of change, by name. */
import type { DeltaKind } from './delta';
import { lora } from './lora';
import { whole } from './whole';

export const deltaKinds = { lora, whole } as const satisfies Record<string, DeltaKind>;

export type DeltaKindName = keyof typeof deltaKinds;
