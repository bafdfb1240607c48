/** What a call of the AI SDK says to this provider alone. */
import { LoRAError } from '../errors';

const op = 'createLoraNative';

/** `providerOptions: { 'lora-native': … }`. @throws ERR_ARGUMENT for what is none of these names. */
export function ownOptionsOf(
  given: Readonly<Record<string, Readonly<Record<string, unknown>>>> | undefined,
  names: readonly string[],
): Readonly<Record<string, unknown>> {
  const own = given?.['lora-native'] ?? {};
  const unknown = Object.keys(own).find((name) => !names.includes(name));
  if (unknown === undefined) return own;
  throw new LoRAError(
    'ERR_ARGUMENT',
    `[${op}] expected providerOptions['lora-native'] to have ${names.join(', ')} but received ${unknown}`,
    { op },
  );
}
