/** Guesses of the next tokens: what is proposed, and how many of them are worth a row. */
import {
  ForcedText,
  maxProposed,
  PromptLookup,
  Speculation,
  SpeculationGate,
} from '../../lib/engine/proposals';

describe('PromptLookup', () => {
  test.each<[string, 1 | 2, number[], number, number[]]>([
    ['goes on as after the last two tokens before', 2, [1, 2, 3, 4, 5, 9, 1, 2], 3, [3, 4, 5]],
    ['takes the longest match before a later one', 2, [7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], 2, [3, 8]],
    ['takes the latest of equal ones', 2, [1, 2, 3, 8, 1, 2, 4, 9, 1, 2], 2, [4, 9]],
    ['wants two tokens that are the same', 2, [1, 2, 3, 9, 2], 3, []],
    ['or one', 1, [1, 2, 3, 9, 2], 3, [3, 9, 2]],
    ['goes on with what repeats', 2, [5, 1, 2, 3, 1, 2, 3, 1, 2], 7, [3, 1, 2, 3, 1, 2, 3]],
    ['repeats one token', 1, [4, 4], 3, [4, 4, 4]],
    ['has none for a new token', 1, [1, 2, 3], 3, []],
    ['nor for the first', 1, [1], 3, []],
    ['keeps order apart', 2, [2, 1, 5, 9, 1, 2], 3, []],
    ['does not take vectors for tokens', 2, [-1, 2, 5, 9, 2], 3, []],
  ])('%s', (_, least, tokens, max, want) => {
    expect(new PromptLookup(least).propose(tokens, max)).toEqual(want);
  });

  test('knows what came since', () => {
    const lookup = new PromptLookup(2);
    const tokens = [1, 2, 3, 4];
    expect(lookup.propose(tokens, 2)).toEqual([]);
    tokens.push(1, 2);
    expect(lookup.propose(tokens, 2)).toEqual([3, 4]);
    tokens.push(8, 9, 1, 2);
    expect(lookup.propose(tokens, 2)).toEqual([8, 9]);
  });

  test('finds what any search would', () => {
    let state = 1;
    const random = (below: number): number => (state = (state * 48_271) % 0x7fffffff) % below;
    for (let round = 0; round < 200; round++) {
      const lookup = new PromptLookup(2);
      const tokens = Array.from({ length: 5 }, () => random(3));
      for (let i = 0; i < 12; i++) {
        // Texts are shorter than what is compared.
        let [best, longest] = [-1, 1];
        for (let place = tokens.length - 2; place >= 0; place--) {
          let common = 0;
          while (common <= place && tokens[place - common] === tokens[tokens.length - 1 - common]) common++;
          if (common > longest) [best, longest] = [place, common];
        }
        const want = best < 0 ? [] : [tokens[best + 1]];
        expect([tokens, lookup.propose(tokens, 1)]).toEqual([tokens, want]);
        tokens.push(random(3));
      }
    }
  });

  test('reads a long prompt in parts', () => {
    const lookup = new PromptLookup(2);
    const tokens = [...Array(10_000).keys(), 5000, 5001];
    expect(lookup.propose(tokens, 1)).toEqual([]);
    expect(lookup.propose(tokens, 1)).toEqual([5002]);
  });
});

describe('ForcedText', () => {
  const letters = (_: readonly number[], text: string): number[] => [...Buffer.from(text)];
  const proposed = (foreseen: string | undefined, max = 9): string =>
    String.fromCharCode(...new ForcedText({ foreseen }, letters).propose([1], max));

  test.each([
    ['": "', '": "'],
    ['", "name', '", "'],
    ['": ', '":'],
    ['": 12', '":'],
    ['été', ''],
    ['', ''],
    [undefined, ''],
  ])('of %j', (text, want) => {
    expect(proposed(text)).toBe(want);
  });

  test('no more than is asked for', () => {
    expect(proposed('", "', 2)).toBe('",');
  });
});

describe('SpeculationGate', () => {
  const after = (proposed: number, taken: number, times = 20): SpeculationGate => {
    const gate = new SpeculationGate();
    for (let i = 0; i < times; i++) gate.note(proposed, taken);
    return gate;
  };

  test('proposes most where all are taken, fewer where few are, none where none are', () => {
    const counts = [after(8, 8), after(8, 3), after(4, 1), after(2, 0)].map((gate) => gate.most(0));
    expect(counts[0]).toBe(maxProposed);
    expect(counts[1]).toBeLessThan(8);
    expect(counts[2]).toBeLessThan(counts[1]!);
    expect(counts[2]).toBeGreaterThan(0);
    expect(counts[3]).toBe(0);
  });

  test('wants more of a proposal beside other rows, since these share the weights too', () => {
    const counts = [0, 3, 15].map((others) => after(4, 1).most(others));
    expect(counts[1]).toBeLessThanOrEqual(counts[0]!);
    expect(counts[2]).toBe(0);
  });

  test('wants more where rows cost more', () => {
    const [cheap, dear] = [0.02, 0.5].map((share) => new SpeculationGate(share).most(0));
    expect(cheap).toBe(maxProposed);
    expect(dear).toBeLessThan(4);
  });

  const pause = (gate: SpeculationGate): number => {
    let steps = 0;
    while (gate.most(0) === 0) steps++;
    return steps;
  };
  const fail = (gate: SpeculationGate): void => {
    for (let i = 0; i < 20; i++) gate.note(1, 0);
  };

  test('tries again after a while, which grows while that fails', () => {
    const gate = new SpeculationGate();
    const pauses = Array.from({ length: 6 }, () => {
      fail(gate);
      return pause(gate);
    });
    expect(pauses).toEqual([16, 32, 64, 128, 256, 256]);
    gate.note(2, 2);
    fail(gate);
    expect(pause(gate)).toBe(16);
  });

  test('a token that is worth its row has at least the chance of what the rows give', () => {
    const gate = new SpeculationGate(0.21);
    for (let i = 0; i < 200; i++) gate.note(2, 1); // one in two is taken
    // 8 rows take 2.5 times as long as one, and give 8 tokens: 0.21 · 8 ÷ 2.5 = 0.68 for the time of the next.
    expect([0, 1, 2, 7].map((others) => gate.most(others))).toEqual([1, 1, 1, 0]);
  });

  test('learns from each token whether it is taken', () => {
    const gate = new SpeculationGate(0.3);
    for (let i = 0; i < 200; i++) gate.note(4, 4);
    expect(gate.most(9)).toBe(maxProposed);
  });
});

describe('Speculation', () => {
  const forced = (tokens: number[]): { propose(): number[] } => ({ propose: () => tokens });

  test('what a grammar forces comes before what was there before, two tokens before one', () => {
    const text = [1, 2, 7, 3, 2, 8, 1, 2];
    expect(new Speculation(forced([9])).propose(text, 1, 0)).toEqual([9]);
    expect(new Speculation(forced([])).propose(text, 1, 0)).toEqual([7]);
    expect(new Speculation().propose([3, 2, 8, 1, 2], 1, 0)).toEqual([8]);
  });

  test('each is judged by its own proposals', () => {
    const speculation = new Speculation(forced([9]));
    while (speculation.propose([1], 1, 0).length > 0) speculation.note(1, 0);
    expect(speculation.propose([1, 2, 7, 1, 2], 1, 0)).toEqual([7]);
    speculation.note(1, 1);
    expect(speculation.propose([1], 1, 0)).toEqual([]);
  });

  test('no more than there is room for', () => {
    expect(new Speculation().propose([4, 4], 3, 0)).toEqual([4, 4, 4]);
    expect(new Speculation(forced([9])).propose([4, 4], 0, 0)).toEqual([]);
  });
});
