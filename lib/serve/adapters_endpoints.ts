/** POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them. */
import { LoRAError } from '../errors';
import { ApiError, invalid } from './api_error';
import { needed, stringField, type Fields } from './fields';
import type { Call } from './service';

function checkAllowed({ service }: Call): void {
  if (service.adapters.canLoad) return;
  throw new ApiError(403, 'adapters cannot be loaded here: the server has no folder for it', {
    code: 'not_enabled',
  });
}

/** Loads an adapter at once, so that what is wrong with it is known now. */
export async function loadAdapter(call: Call, fields: Fields): Promise<void> {
  checkAllowed(call);
  const { adapters } = call.service;
  const name = needed(stringField(fields, 'lora_name'), 'lora_name');
  const path = needed(stringField(fields, 'lora_path'), 'lora_path');
  const entry = await adapters.registerFrom(path, name);
  try {
    (await adapters.useEntry(entry, call.exchange.signal)).release();
  } catch (error) {
    adapters.withdraw(entry); // another client may have given the name to another folder meanwhile
    if (error instanceof LoRAError && /^ERR_(FILE|ADAPTER|SAFETENSORS)$/.test(error.code))
      throw new ApiError(400, `'${path}' is no adapter of this model: ${error.message}`, {
        code: 'invalid_adapter',
        param: 'lora_path',
        cause: error,
      });
    throw error;
  }
  call.exchange.json({ status: 'ok', message: `adapter '${name}' is loaded` });
}

export async function unloadAdapter(call: Call, fields: Fields): Promise<void> {
  checkAllowed(call);
  const { adapters } = call.service;
  const name = needed(stringField(fields, 'lora_name'), 'lora_name');
  if (adapters.isFixed(name)) throw invalid(`'${name}' was not loaded by a request`, 'lora_name');
  adapters.unload(name);
  call.exchange.json({ status: 'ok', message: `adapter '${name}' is unloaded` });
}
