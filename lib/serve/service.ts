/** What the endpoints of a server share. */
import type { CausalLM } from '../models/causal_lm';
import { Clients, type Client } from './clients';
import type { Exchange } from './exchange';
import { FairQueue } from './fair_queue';
import { Metrics } from './metrics';
import { type HandlerSettings } from './options';
import { ServedAdapters } from './served_adapters';
import { TokenTexts } from './token_texts';
import { toolFormatOf, type ToolFormat } from './tool_calls';

export class Service {
  readonly queue: FairQueue;
  readonly clients: Clients;
  readonly adapters: ServedAdapters;
  readonly metrics = new Metrics();
  #tokenTexts: TokenTexts | undefined;

  constructor(
    readonly model: CausalLM,
    readonly settings: HandlerSettings,
  ) {
    this.queue = new FairQueue(settings);
    this.clients = new Clients(settings.apiKeys);
    this.adapters = new ServedAdapters(model, settings.modelName, settings);
    for (const [name, path] of Object.entries(settings.adapters)) this.adapters.register(name, path);
  }

  /** The format in which the model calls tools; undefined where it has none that is known. */
  get toolFormat(): ToolFormat | undefined {
    return (this.#toolFormat ??= { format: toolFormatOf(this.model.tokenizer) }).format;
  }
  #toolFormat: { readonly format: ToolFormat | undefined } | undefined;

  get tokenTexts(): TokenTexts {
    return (this.#tokenTexts ??= new TokenTexts(this.model.tokenizer));
  }
}

/** What an endpoint gets beside the request. */
export interface Call {
  readonly service: Service;
  readonly exchange: Exchange;
  readonly client: Client;
}
