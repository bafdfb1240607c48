/** Rows of preferences: the tokens that prompts and answers become, what is cut, dropped and refused. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadDataset, type LoadPreferencesOptions } from '../../lib/data/dataset';
import { answerKind, labeledRows, pairRows } from '../../lib/data/preference_rows';
import type { ChatMessage } from '../../lib/text/messages';
import { expectReject, expectThrow } from '../support/errors';
import { temporaryFolder } from '../support/temporary';

const dir = temporaryFolder();
const bytes = (text: string): number[] => [...Buffer.from(text)];
const written = (messages: readonly ChatMessage[]): string =>
  messages.map(({ role, content }) => `<${role}>${content as string}~`).join('');
const tokenizer = {
  encode: bytes,
  eosTokenId: 0,
  hasChatTemplate: true,
  turns(messages: readonly ChatMessage[]) {
    const spans = messages.flatMap(({ role, content }, i) => {
      const begin = written(messages.slice(0, i)).length + `<${role}>`.length;
      return role === 'assistant'
        ? [[begin, begin + (content as string).length + 1] as [number, number]]
        : [];
    });
    return { text: written(messages), spans, ordinary: [] };
  },
};

let files = 0;
function read(rows: readonly object[], options: Partial<LoadPreferencesOptions> = {}) {
  const path = join(dir, `${files++}.jsonl`);
  writeFileSync(path, rows.map((row) => JSON.stringify(row)).join('\n'));
  return loadDataset(path, { tokenizer, objective: 'dpo', ...options } as LoadPreferencesOptions);
}
const pair = (prompt: string, chosen: string, rejected: string) => ({
  promptIds: bytes(prompt),
  chosenIds: [...bytes(chosen), 0],
  rejectedIds: [...bytes(rejected), 0],
});

describe('texts', () => {
  test('are a prompt, and what it has more with an answer and the end', async () => {
    const data = await read([
      { prompt: 'ab', chosen: 'cd', rejected: 'e' },
      { prompt: 'f', chosen: '', rejected: 'g' },
    ]);
    expect([...data]).toEqual([pair('ab', 'cd', 'e'), pair('f', '', 'g')]);
    expect(data).toMatchObject({ length: 2, truncated: 0, dropped: 0, tokens: 8 });
    expect([...data]).toEqual([...data]);
  });

  test.each([
    [{ chosen: 'q: yes', rejected: 'q: no' }, pair('q:', ' yes', ' no')],
    [{ chosen: 'abx', rejected: 'aby', prompt: null }, pair('ab', 'x', 'y')],
    [{ chosen: 'a', rejected: 'ab' }, pair('a', '', 'b')],
    // U+1F600 and U+1F601 share their first half.
    [{ chosen: 'a\u{1f600}', rejected: 'a\u{1f601}' }, pair('a', '\u{1f600}', '\u{1f601}')],
  ])('share their beginning where they have no prompt: %j', async (row, expected) => {
    expect([...(await read([row]))]).toEqual([expected]);
  });

  test('lose their end; a prompt that fills the length leaves nothing', async () => {
    const rows = [
      { prompt: 'abc', chosen: 'de', rejected: 'f' },
      { prompt: 'abcd', chosen: 'e', rejected: 'f' },
      { prompt: 'a', chosen: 'b', rejected: 'cdef' },
    ];
    const data = await read(rows, { maxLength: 4 });
    expect([...data]).toEqual([
      { promptIds: bytes('abc'), chosenIds: bytes('d'), rejectedIds: bytes('f') },
      { ...pair('a', 'b', ''), rejectedIds: bytes('cde') },
    ]);
    expect(data).toMatchObject({ length: 2, truncated: 2, dropped: 1, tokens: 7 });
    // By these, batches of similar lengths are made.
    expect((data as unknown as { lengths: number[] }).lengths).toEqual([4, 4]);
    expect(
      ((await read([{ prompt: 'a', chosen: 'b', rejected: 'cd' }])) as unknown as { lengths: number[] })
        .lengths,
    ).toEqual([4]);
    await expectReject(
      read([rows[1]!], { maxLength: 4 }),
      'ERR_DATA',
      /only rows whose prompt fills 4 tokens/,
    );
  });

  test('of a prompt with an answer that is good or bad', async () => {
    const rows = [
      { prompt: 'a', completion: 'b', label: true },
      { prompt: 'a', completion: 'cd', label: false },
    ];
    const data = await read(rows, { objective: 'kto', maxLength: 3 });
    expect([...data]).toEqual([
      { promptIds: bytes('a'), completionIds: [...bytes('b'), 0], label: true },
      { promptIds: bytes('a'), completionIds: bytes('cd'), label: false },
    ]);
    expect(data.truncated).toBe(1);
  });

  test('may stand under other names', async () => {
    const rows = [{ q: 'a', good: 'b', bad: 'c' }];
    const columns = { prompt: 'q', chosen: 'good', rejected: 'bad' };
    expect([...(await read(rows, { columns }))]).toEqual([pair('a', 'b', 'c')]);
  });
});

describe('messages', () => {
  const said = (role: string, content: string): ChatMessage => ({ role, content });
  test('go through the template; of a prompt no answer counts', async () => {
    const prompt = [said('user', 'q'), said('assistant', 'a'), said('user', 'r')];
    const [row] = [
      ...(await read([{ prompt, chosen: [said('assistant', 'yes')], rejected: [said('assistant', 'no')] }])),
    ];
    expect(row).toEqual({
      promptIds: bytes('<user>q~<assistant>a~<user>r~<assistant>'),
      chosenIds: bytes('yes~'),
      rejectedIds: bytes('no~'),
    });
  });

  test('share those at their beginning', async () => {
    const common = [said('user', 'q')];
    const [row] = [
      ...(await read([
        { chosen: [...common, said('assistant', 'ya')], rejected: [...common, said('assistant', 'yb')] },
      ])),
    ];
    expect(row).toEqual({
      promptIds: bytes('<user>q~<assistant>'),
      chosenIds: bytes('ya~'),
      rejectedIds: bytes('yb~'),
    });
  });

  test.each<[row: object, message: RegExp]>([
    [{ prompt: 'a', chosen: [said('assistant', 'b')], rejected: 'c' }, /all texts, or all messages/],
    [{ chosen: [said('assistant', 'b')], rejected: 'c' }, /both texts, or both messages/],
    [
      { prompt: [said('user', 'a')], chosen: [said('user', 'b')], rejected: [said('user', 'c')] },
      /answer of the assistant/,
    ],
    [{ prompt: 3, chosen: 'b', rejected: 'c' }, /"prompt" to be a string or messages/],
  ])('and texts do not mix: %j', (row, message) => expectReject(read([row]), 'ERR_DATA', message));
});

describe('are refused', () => {
  test.each<[row: object, objective: 'dpo' | 'kto', message: RegExp]>([
    [{ prompt: 'a', completion: 'b' }, 'dpo', /expected one of .*\{ prompt\?, chosen, rejected \}/],
    [{ prompt: 'a', chosen: 'b', rejected: 'c' }, 'kto', /\{ prompt, completion, label \}/],
    [{ prompt: 'a', completion: 'b', label: 1 }, 'kto', /"label" to be true or false/],
    [{ promptIds: [1], completionIds: [2], label: 'yes' }, 'kto', /label .* true or false/],
    [{ promptIds: [1], chosenIds: [], rejectedIds: [2] }, 'dpo', /chosenIds to have at least one token/],
    [{ promptIds: [], chosenIds: [1], rejectedIds: [2] }, 'dpo', /promptIds to have at least one token/],
    [{ promptIds: [1], chosenIds: [1.5], rejectedIds: [2] }, 'dpo', /chosenIds .* token ids/],
    [{ promptIds: [1], chosenIds: [2 ** 31], rejectedIds: [2] }, 'dpo', /32 bits/],
  ])('%j of %s', (row, objective, message) => expectReject(read([row], { objective }), 'ERR_DATA', message));

  test('without a token before the answers, which the first of them could follow', async () => {
    await expectReject(
      read([{ chosen: 'a', rejected: 'b' }]),
      'ERR_DATA',
      /:1: .*prompt of at least one token/,
    );
    const none = { encode: bytes, eosTokenId: null };
    const row = { prompt: 'a', chosen: 'b', rejected: '' };
    await expectReject(read([row], { tokenizer: none }), 'ERR_DATA', /answer of at least one token/);
  });

  test('as what they are not', async () => {
    await expectReject(
      read([], { objective: 'dppo' } as never),
      'ERR_ARGUMENT',
      /'sft', 'dpo', 'orpo', 'kto', 'cpo'/,
    );
    await expectReject(read([], { trainOn: 'all' } as never), 'ERR_ARGUMENT', /trainOn/);
    await expectReject(read([], { inMemory: false } as never), 'ERR_ARGUMENT', /inMemory/);
    const path = join(dir, 'a.txt');
    writeFileSync(path, 'text');
    await expectReject(loadDataset(path, { tokenizer, objective: 'dpo' }), 'ERR_DATA', /plain text/);
  });
});

describe('in a batch', () => {
  test('are a text for each answer, of which the answer counts', () => {
    const row = { promptIds: [1, 2], chosenIds: [3], rejectedIds: [4, 5] };
    expect(answerKind(pairRows).read('batches', row, 'row').examples).toEqual([
      { inputIds: [1, 2, 3], labels: [-100, -100, 3] },
      { inputIds: [1, 2, 4, 5], labels: [-100, -100, 4, 5] },
    ]);
    expect(answerKind(pairRows, true).read('batches', row, 'row').examples[0]!.labels).toEqual([1, 2, 3]);
    const labeled = { promptIds: [1], completionIds: [2], label: false };
    expect(answerKind(labeledRows).read('batches', labeled, 'row').marks).toEqual([1, 0]);
    expectThrow(
      () => answerKind(pairRows).read('batches', labeled, 'row 7'),
      'ERR_DATA',
      /row 7: .*chosenIds/,
    );
  });
});
