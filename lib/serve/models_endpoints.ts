/** GET /v1/models and /v1/models/NAME. */
import type { ServedModel } from './served_adapters';
import type { Call } from './service';

function card({ name, parent, root }: ServedModel, created: number): object {
  return { id: name, object: 'model', created, owned_by: 'lora-native', root, parent };
}

/** When this process began to serve: models have no date of their own. */
const began = Math.floor(Date.now() / 1000);

export async function listModels({ service, exchange }: Call): Promise<void> {
  exchange.json({ object: 'list', data: service.adapters.list().map((model) => card(model, began)) });
}

export async function retrieveModel({ service, exchange }: Call, name: string): Promise<void> {
  const found = service.adapters.list().find((model) => model.name === name);
  if (!found) throw service.adapters.unknown(name);
  exchange.json(card(found, began));
}
