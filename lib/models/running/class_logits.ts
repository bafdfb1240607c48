/** What a head of classes says of each text of a batch. */
import type { AdapterUse } from '../../peft/adapter_use';
import { moved } from '../../tensor/scope';
import type { Tensor } from '../../tensor/tensor';
import { check } from '../../validate';
import { headLogits, type Decoder } from '../core/decoder';
import type { TokenRows } from '../inputs/batch';
import type { InputLayout } from '../inputs/input_layout';
import { atPlaces, lastTokens } from '../inputs/pooling';

/** The texts of a call. */
interface ClassRequest {
  readonly ids: TokenRows;
  readonly segmentIds?: readonly ArrayLike<number>[] | undefined;
  readonly layout: InputLayout;
  readonly use: AdapterUse;
}

/**
 * hidden [batch, length, hiddenSize] after the last norm → [texts, labels] in f32: score·h of the last token of each text. Consumes hidden.
 * @throws ERR_ARGUMENT for packed rows with adapters of their own
 */
export function classLogits(
  decoder: Decoder,
  hidden: Tensor,
  { ids, segmentIds, layout, use }: ClassRequest,
): Tensor {
  const { rows } = use;
  check(
    rows === undefined || segmentIds === undefined,
    'forward',
    'expected one adapter for all rows, since rows of segmentIds hold several texts',
  );
  const pad = decoder.config.raw['pad_token_id'];
  const places = lastTokens(ids, segmentIds, typeof pad === 'number' ? pad : undefined);
  const pooled = moved(layout.tokens(hidden), (x) => atPlaces(x, places));
  const logitsOf = (x: Tensor, own: AdapterUse): Tensor => moved(x, (t) => headLogits(decoder, t, own));
  const logits = rows ? moved(pooled, (x) => rows.each(x, logitsOf)) : logitsOf(pooled, use);
  return logits.dtype === 'f32' ? logits : moved(logits, (t) => t.to({ dtype: 'f32' }));
}
