/** The command that serves a model with OpenAI's API. */
import { once } from 'node:events';
import { stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { loraError } from '../errors';
import { readJson, readText } from '../formats/json';
import { adapterConfigFile } from '../formats/model_files';
import { systemReason } from '../formats/system_reason';
import { isHubName } from '../hub/names';
import { flagsOf } from '../options/option';
import { engineOptions, handlerNumbers } from '../options/serving';
import { allowSpecialTokens, generationOptions } from '../options/table';
import { readAdapter } from '../peft/adapter_files';
import type { HeadInput } from '../peft/head';
import { isOrigin } from '../serve/cors';
import { createOpenAIHandler } from '../serve/handler';
import type { OpenAIHandlerOptions, ServeLogger } from '../serve/options';
import { checkHandlerOptions } from '../serve/service';
import { isRecord } from '../validate';
import { adaptersFlag, adapterSources } from './adapters';
import { configFlag, defineCommand, helpFlag, Interrupted, UsageError, type Console } from './command';
import { generatingModelFlags, loadModel, note, printJson } from './common';
import { printableLine } from './printable';

export const serve = defineCommand({
  summary: "Serves a model and its adapters with OpenAI's API over HTTP.",
  usage: '--model DIR [--adapter NAME=DIR …] [flags]',
  flags: {
    ...generatingModelFlags,
    config: configFlag,
    ...adaptersFlag,
    modelName: {
      type: 'string',
      value: 'NAME',
      help: 'of the base in requests',
      defaultText: "its folder's",
    },
    maxAdapters: handlerNumbers.maxAdapters,
    allowLoadFrom: {
      type: 'string',
      value: 'DIR',
      help: 'requests may load adapters from there',
      defaultText: 'they load none',
    },
    host: { type: 'string', value: 'ADDRESS', default: '127.0.0.1', help: 'the address to listen on' },
    port: { type: 'integer', minimum: 0, maximum: 65535, default: 8080, help: 'the port; 0 is a free one' },
    apiKey: {
      type: 'string',
      value: 'KEY',
      repeat: true,
      help: 'requests must carry one; may be repeated',
      defaultText: 'none',
    },
    apiKeyFile: { type: 'string', value: 'FILE', help: 'keys, one a line, that other users cannot see' },
    allowedHost: {
      type: 'string',
      value: 'NAME',
      repeat: true,
      help: 'a further host name; may be repeated',
      defaultText: 'none; with keys all',
    },
    ...flagsOf(engineOptions),
    maxQueued: handlerNumbers.maxQueued,
    defaultMaxNewTokens: handlerNumbers.defaultMaxNewTokens,
    defaultTemperature: {
      type: 'number',
      value: 'T',
      minimum: 0,
      maximum: 2,
      help: 'of requests that name none',
      defaultText: "the model's, else 1",
    },
    headersTimeoutMs: {
      type: 'integer',
      minimum: 1,
      default: 10_000,
      help: 'for the headers of a request; 408 after it',
    },
    idleTimeoutMs: {
      type: 'integer',
      minimum: 1,
      default: 5000,
      help: 'a connection may wait for its next request',
    },
    cors: {
      type: 'string',
      value: 'ORIGIN',
      repeat: true,
      help: "origins whose pages may ask, or '*'; may be repeated",
      defaultText: 'none',
    },
    page: { type: 'boolean', default: true, help: 'a page at / on which people chat with the models' },
    allowSpecialTokens,
    speculate: generationOptions.speculate,
    logPrompts: { type: 'boolean', help: 'prompts and texts in the log' },
    json: { type: 'boolean', help: 'the log as JSON' },
    help: helpFlag,
  },
  json: 'a line when it listens, { type: "listening", url, model }, and one for each request, { type: "request", id, method, path, status, ms, client?, model?, stream?, promptTokens?, completionTokens?, cachedTokens?, firstTokenMs?, error? }; failures are { type: "error", message, … }',

  async run(values, console) {
    const sources = adapterSources(values.adapter);
    for (const [name, source] of sources) await checkFolder(name, source);
    const apiKeys = [...values.apiKey, ...(await keysOf(values.apiKeyFile))];
    const { maxBatchSize, kvCacheBytes, maxQueued, maxAdapters, logPrompts } = values;
    const { modelName, allowLoadFrom, allowSpecialTokens, speculate } = values;
    const { defaultMaxNewTokens, defaultTemperature } = values;
    const options: OpenAIHandlerOptions = {
      ...{ modelName, allowLoadFrom, allowSpecialTokens, speculate },
      adapters: Object.fromEntries(sources),
      apiKeys,
      allowedHosts: values.allowedHost,
      maxRunning: maxBatchSize,
      ...{ maxQueued, maxAdapters, defaultMaxNewTokens, defaultTemperature, logPrompts },
      page: values.page,
      cors: values.cors.length === 0 ? undefined : { origin: values.cors },
      logger: values.json ? jsonLogger(console) : plainLogger(console),
    };
    const wrong: string | undefined = values.cors.find((origin: unknown) => !isOrigin(origin));
    if (wrong !== undefined)
      throw new UsageError(
        `--cors: expected '*' or an origin such as https://app.example but received ${wrong}`,
      );
    checkHandlerOptions(options, 'serve'); // before the model is loaded
    const model = await loadModel(values, console, await headOfFolders(sources.values()));
    try {
      model.configureEngine({ maxBatchSize, kvCacheBytes });
      const handler = createOpenAIHandler(model, options);
      const server = createServer(timeoutsOf(values), handler);
      server.maxConnections = 1024;
      const url = await listen(server, values.host, values.port);
      if (values.json) printJson(console, { type: 'listening', url, model: model.directory });
      else note(console, `listening on ${url}`);
      if (apiKeys.length === 0 && !isLoopback(values.host))
        note(console, 'warning: anybody who reaches this address may use the model; see --api-key');
      await stopped(console.signal);
      server.close();
      await handler.close();
      server.closeAllConnections();
    } finally {
      await model.dispose();
    }
    // A server that is told to end has done what it was there for.
    return console.signal.reason instanceof Interrupted ? 0 : undefined;
  },
});

/**
 * How long a connection may take without being served. Node.js would look for late headers twice a minute; a body has a limit of its own in
 * the handler, so that the time for a whole request is only the last resort.
 */
function timeoutsOf({
  headersTimeoutMs,
  idleTimeoutMs,
}: Record<'headersTimeoutMs' | 'idleTimeoutMs', number>) {
  return {
    headersTimeout: headersTimeoutMs,
    keepAliveTimeout: idleTimeoutMs,
    requestTimeout: Math.max(120_000, headersTimeoutMs),
    connectionsCheckingInterval: Math.min(2000, headersTimeoutMs),
  };
}

/** The head of the first adapter that lies here and is for a head of classes. */
async function headOfFolders(folders: Iterable<string>): Promise<HeadInput | undefined> {
  for (const folder of folders) {
    const config = await readJson(join(folder, adapterConfigFile)).catch(() => undefined);
    if (isRecord(config) && config['task_type'] === 'SEQ_CLS') return (await readAdapter(folder)).head;
  }
  return undefined;
}

const isLoopback = (host: string): boolean => /^(localhost|127\.|::1$)/.test(host);

/** A folder that has no adapter is named before the model is loaded; its files are read when a request asks for it. */
async function checkFolder(name: string, source: string): Promise<void> {
  const folder = await stat(source).catch(() => undefined);
  if (!folder && isHubName(source)) return;
  if (!folder) throw new UsageError(`adapter '${name}': there is no folder ${source}`);
  if (!(await stat(join(source, adapterConfigFile)).catch(() => undefined)))
    throw new UsageError(`adapter '${name}': ${source} has no ${adapterConfigFile}`);
}

async function keysOf(file: string | undefined): Promise<string[]> {
  if (file === undefined) return [];
  const keys = (await readText(file)).split('\n').map((line) => line.trim());
  const found = keys.filter((key) => key !== '');
  // An empty file must not open the server to everybody.
  if (found.length === 0) throw new UsageError(`${file} has no API key`);
  return found;
}

async function listen(server: Server, host: string, port: number): Promise<string> {
  server.listen(port, host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    throw loraError(
      'serve',
      'ERR_ARGUMENT',
      `cannot listen on ${host}:${port}: ${systemReason(cause)}`,
      cause,
    );
  }
  const { address, port: bound, family } = server.address() as AddressInfo;
  return `http://${family === 'IPv6' ? `[${address}]` : address}:${bound}`;
}

function stopped(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function jsonLogger(console: Console): ServeLogger {
  return {
    info: (fields) => printJson(console, { type: 'request', ...fields }),
    error: (fields) => {
      const { err, ...rest } = fields as { err?: unknown };
      printJson(console, { type: 'error', message: messageOf(err), ...rest });
    },
  };
}

/** What clients have sent stands in a line of the log, and begins none of its own. */
const oneLine = (line: string): string => printableLine(line, 4096);

function plainLogger(console: Console): ServeLogger {
  const line = (fields: object): string => {
    const { method, path, status, ms, client, model, error, promptTokens, completionTokens } =
      fields as Record<string, string | number | undefined>;
    const tokens = completionTokens === undefined ? '' : `, ${promptTokens} + ${completionTokens} tokens`;
    const who = client === undefined ? '' : ` (${client})`;
    const said = `${status} ${method} ${path}${who} ${model ?? ''}${tokens}, ${ms} ms`;
    return error === undefined ? said : `${said}: ${error}`;
  };
  return {
    info(fields) {
      note(console, oneLine(line(fields)));
      const { prompt, texts } = fields as { prompt?: unknown; texts?: unknown };
      if (prompt !== undefined) note(console, `  ${JSON.stringify({ prompt, texts })}`);
    },
    error(fields) {
      const { err } = fields as { err?: unknown };
      note(console, oneLine(`${line(fields)}: ${messageOf(err)}`));
    },
  };
}
