/** What the scores of a head of classes are, in the words of transformers' `problem_type`. */
export const problemTypes = [
  'single_label_classification',
  'multi_label_classification',
  'regression',
] as const;

/**
 * What the scores of a head of classes are: of labels of which a text has one (softmax), of labels of which it has any number (sigmoids), or numbers
 * as they are. The words are those of transformers' `problem_type`.
 */
export type ProblemType = (typeof problemTypes)[number];
