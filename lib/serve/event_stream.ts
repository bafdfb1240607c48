/** Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), written no faster than they are read. */
import { ApiError } from './api_error';
import { eventText } from './event_text';
import type { Outgoing } from './exchange';

/** What happens around a reader that does not keep up. */
export interface Backpressure {
  /** Aborted where the connection closes. */
  readonly signal: AbortSignal;
  /** How long a reader may take nothing before its stream is ended. */
  readonly stallTimeoutMs: number;
  /** Called when the stream has to wait for its reader, with what ends it. */
  readonly onPause: (end: () => void) => void;
  /** Called when it may go on, which it does when the promise resolves. */
  readonly onResume: () => Promise<void>;
}

export interface EventStreamOptions extends Backpressure {
  /** Whether each event is named by its `type`. */
  readonly named: boolean;
}

export class EventStream {
  readonly #response: Outgoing;
  readonly #pressure: Backpressure;
  readonly #named: boolean;

  constructor(response: Outgoing, { named, ...pressure }: EventStreamOptions) {
    this.#response = response;
    this.#pressure = pressure;
    this.#named = named;
  }

  /** Whether the answer has begun: its status can then no longer be another one. */
  get begun(): boolean {
    return this.#response.headersSent;
  }

  /** Sends events, one after the other. */
  async sendAll(events: readonly (object | '[DONE]')[]): Promise<void> {
    for (const event of events) await this.send(event);
  }

  /**
   * Sends one event, and waits where the connection has enough of them.
   * @throws the reason of the signal; what ends a stream whose reader has stopped.
   */
  async send(event: object | '[DONE]'): Promise<void> {
    const response = this.#response;
    if (!response.headersSent)
      response.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache',
        // nginx would collect events before it passes them on.
        'x-accel-buffering': 'no',
      });
    if (!response.write(eventText(event, this.#named))) await this.#drained();
    this.#pressure.signal.throwIfAborted();
  }

  async #drained(): Promise<void> {
    const response = this.#response;
    const { signal, stallTimeoutMs, onPause, onResume } = this.#pressure;
    await new Promise<void>((resolve, reject) => {
      const end = (settle: () => void): void => {
        clearTimeout(timer);
        response.off('drain', drained);
        signal.removeEventListener('abort', aborted);
        settle();
      };
      const drained = (): void => end(resolve);
      const aborted = (): void => end(() => reject(signal.reason as Error));
      const stalled = (): void =>
        end(() => reject(new ApiError(408, 'the stream was not read', { code: 'timeout' })));
      const timer = setTimeout(stalled, stallTimeoutMs);
      response.on('drain', drained);
      signal.addEventListener('abort', aborted, { once: true });
      onPause(stalled);
      if (signal.aborted) aborted();
    });
    await onResume();
  }
}
