/** What the endpoints of a server share. */
import { checkSpeculation } from '../engine/speculation';
import type { CausalLM } from '../models/causal_lm';
import { AnswerForm } from '../text/answers/answer_form';
import { Clients, type Client } from './clients';
import type { Exchange } from './exchange';
import { FairQueue } from './fair_queue';
import { Metrics } from './metrics';
import { handlerSettings, type HandlerSettings, type OpenAIHandlerOptions } from './options';
import { checkServedName, ServedAdapters } from './served_adapters';
import { Telemetry } from './telemetry';
import { TokenTexts } from './token_texts';
import { WaitingBytes, type HeldBytes } from './waiting_bytes';

/**
 * Clients whose texts become ids, or ids texts, at once. Each takes a slice of the event loop in its turn, so a fifth one would make all gaps
 * longer; one client has one such text at a time, so that its others wait for it alone.
 */
const maxEncoding = 4;

export class Service {
  /** Requests that generate. */
  readonly queue: FairQueue;
  readonly #encoding: FairQueue;
  readonly waitingBytes: WaitingBytes;
  readonly clients: Clients;
  readonly adapters: ServedAdapters;
  readonly metrics = new Metrics();
  readonly telemetry = new Telemetry();
  #tokenTexts: TokenTexts | undefined;

  constructor(
    readonly model: CausalLM,
    readonly settings: HandlerSettings,
  ) {
    if (settings.speculate) checkSpeculation(settings.op, { device: model.device, ...model.config });
    this.queue = new FairQueue(settings);
    this.waitingBytes = new WaitingBytes(settings.maxWaitingBytes);
    // Those that have a place of the first queue are not refused in this one.
    const maxQueued = settings.maxQueued + settings.maxRunning;
    this.#encoding = new FairQueue({ maxRunning: maxEncoding, maxPerClient: 1, maxQueued });
    this.clients = new Clients(settings.apiKeys, settings.op);
    this.adapters = new ServedAdapters(model, settings.modelName, settings);
    for (const [name, path] of Object.entries(settings.adapters)) this.adapters.register(name, path);
  }

  /** Does the work of the tokenizer for one text when the client has its turn. @throws 429 where too much waits. */
  async inTurn<T>(client: Client, signal: AbortSignal, work: () => T | Promise<T>): Promise<T> {
    const lease = await this.#encoding.enter(client.lane, 1, signal);
    try {
      return await work();
    } finally {
      lease.release();
    }
  }

  /** How the model writes thoughts and calls of tools. */
  get answerForm(): AnswerForm {
    return AnswerForm.of(this.model.tokenizer);
  }

  get tokenTexts(): TokenTexts {
    return (this.#tokenTexts ??= new TokenTexts(this.model.tokenizer));
  }
}

/** @throws ERR_ARGUMENT for what a handler refuses whatever the model is: a program may ask before it loads one. */
export function checkHandlerOptions(options: OpenAIHandlerOptions, op: string): void {
  const { apiKeys, adapters } = handlerSettings({ directory: 'model', servedTemperature: 1 }, options, op);
  new Clients(apiKeys, op);
  for (const name of Object.keys(adapters)) checkServedName(op, name);
}

/** What an endpoint gets beside the request. */
export interface Call {
  readonly service: Service;
  readonly exchange: Exchange;
  readonly client: Client;
  /** The bytes of the body, which count until the request has its turn. */
  readonly body: HeldBytes;
}
