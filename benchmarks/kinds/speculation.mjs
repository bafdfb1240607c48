// Texts one after the other with speculation and without, which have the same tokens.
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cache, shared } from '../models.mjs';
import { ratio, spread } from '../stats.mjs';
import { inTurns, startOurs } from './whole_model.mjs';

const bundled = join(dirname(fileURLToPath(import.meta.url)), '../../examples/data');
const wikisql = join(shared, 'data/chat/wikisql');
const names = (...values) => ({ enum: values });

/** What is asked: the texts that an adapter learns, those of which the beginnings are prompts, and what ends an answer. */
const tasks = {
  json: {
    data: join(bundled, 'train.jsonl'),
    asked: join(bundled, 'heldout.jsonl'),
    until: '-> ',
    options: {
      maxNewTokens: 120,
      jsonSchema: {
        type: 'object',
        properties: {
          who: { type: 'string' },
          count: { type: 'integer' },
          colour: { type: 'string' },
          item: { type: 'string' },
          place: { type: 'string' },
          day: names('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday'),
        },
        required: ['who', 'count', 'colour', 'item', 'place', 'day'],
        additionalProperties: false,
      },
    },
  },
  sql: {
    data: join(wikisql, 'train.jsonl'),
    asked: join(wikisql, 'test.jsonl'),
    until: '\nA: ',
    options: { maxNewTokens: 80, stop: '\n' },
  },
};

/** Beginnings of the texts, without the blank that belongs to the first token of the answer. */
const promptsOf = ({ asked, until }, count) =>
  readFileSync(asked, 'utf8')
    .split('\n', count)
    .map((line) => JSON.parse(line).text)
    .map((text) => text.slice(0, text.lastIndexOf(until) + until.length).trimEnd());

export async function runSpeculation(testCase, bench) {
  const { dtype, task: name, maxSteps, lr, found, id } = testCase;
  const task = tasks[name];
  if (!existsSync(task.asked)) return bench.leaveOut(id, `${task.asked} is absent`);
  const adapter = join(cache, `speculation-${name}-${found.name.replaceAll(' ', '-')}-${maxSteps}`);
  const train = { data: task.data, maxSteps, lr };
  const settings = { model: found.dir, adapter, train, dtype, threads: bench.threads };
  const worker = await startOurs('speculate.mjs', settings);
  const workers = new Map([
    ['with', worker],
    ['without', worker],
  ]);
  try {
    const prompts = promptsOf(task, testCase.texts);
    const options = { temperature: 0, ...task.options };
    const request = (of) => ({ prompts, options, speculate: of === 'with' });
    for (const of of workers.keys()) await worker.ask(request(of));
    const { answers } = await inTurns(workers, request, bench.stepSettings);
    const [ours, plain] = [answers.get('with'), answers.get('without')];
    if (JSON.stringify(ours.map(({ ids }) => ids)) !== JSON.stringify(plain.map(({ ids }) => ids)))
      throw new Error(`${id}: speculation changed the texts`);
    const seconds = (of) => of.map(({ ms }) => ms / 1000);
    const user = (of) => of.map(({ userMs }) => userMs);
    const { steps, proposed, accepted } = ours[0];
    bench.add({
      kind: 'speculation',
      case: id,
      what: 'generate',
      unit: 's',
      ours: spread(seconds(ours)),
      rivals: {},
      tokens: ours[0].ids.reduce((sum, { length }) => sum + length, 0),
      ofPlain: ratio(seconds(ours), seconds(plain)),
      userOfPlain: ratio(user(ours), user(plain)),
      speculation: { steps, plainSteps: plain[0].steps, proposed, accepted },
    });
  } finally {
    await worker.stop();
  }
}
