/** One server-sent event as it is written. */

/** `named`: by its `type`. */
export const eventText = (event: object | '[DONE]', named: boolean): string => {
  if (typeof event === 'string') return `data: ${event}\n\n`;
  const name = named ? `event: ${(event as { type: string }).type}\n` : '';
  return `${name}data: ${JSON.stringify(event)}\n\n`;
};
