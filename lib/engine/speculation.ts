/** Which tokens the rows of a step read behind the last ones of their texts: guesses, which a text takes as far as it draws the same. */
import { loraError } from '../errors';
import type { EngineModel } from './model';
import type { Request } from './request';

/**
 * Why texts of a model do not speculate: on a GPU the bits of a row follow from the other rows too, and a state that has read a wrong guess
 * cannot forget it. Undefined: they may.
 */
export function whyNoSpeculation({
  device,
  layers,
}: Pick<EngineModel, 'device' | 'layers'>): string | undefined {
  if (device !== 'cpu' && device !== 'reference')
    return `speculate is for models on the CPU, where a token has the same bits in a step of several rows; this one is on ${device}`;
  if (layers.some(({ kind }) => kind === 'state'))
    return 'speculate is for models of attention alone, which forget a token that was guessed wrong; this one has layers that keep a state';
  return undefined;
}

/** @throws ERR_UNSUPPORTED for a model whose texts do not speculate */
export function checkSpeculation(op: string, model: Pick<EngineModel, 'device' | 'layers'>): void {
  const why = whyNoSpeculation(model);
  if (why !== undefined) throw loraError(op, 'ERR_UNSUPPORTED', why);
}

/**
 * Proposes tokens for requests that run in one step, which has `maxRows` rows: those that are left are shared evenly. `hasPages` gets
 * pages for a number of positions, unless others would lose theirs.
 */
export function propose(
  requests: readonly Request[],
  maxRows: number,
  hasPages: (request: Request, positions: number) => boolean,
): void {
  const speculating = requests.filter(({ plan }) => plan.speculation);
  let rows = requests.length;
  for (const [i, request] of speculating.entries()) {
    const share = Math.ceil((maxRows - rows) / (speculating.length - i));
    request.proposed = proposedFor(request, Math.min(share, request.maxProposed), rows - 1);
    while (request.proposed.length > 0 && !hasPages(request, request.computed + 1 + request.proposed.length))
      request.proposed = request.proposed.slice(0, -1);
    rows += request.proposed.length;
  }
}

function proposedFor({ plan, ids }: Request, most: number, others: number): readonly number[] {
  if (most <= 0) return [];
  const proposed = plan.speculation!.propose(ids, most, others);
  // What follows the end of the text is never taken.
  const end = proposed.findIndex((id) => plan.generation.eosTokenIds.has(id));
  return end < 0 ? proposed : proposed.slice(0, end);
}
