/** The commands of a shell block, as words: enough of the shell's grammar for documentation. */

/** Splits at newlines, `;`, `&&`, `||` and `|`; joins lines that end in `\`; drops comments, prompts and assignments. */
export function shellCommands(code: string): string[][] {
  const commands: string[][] = [[]];
  let word: string | undefined;
  const endWord = (): void => {
    if (word !== undefined) commands.at(-1)!.push(word);
    word = undefined;
  };
  const endCommand = (): void => {
    endWord();
    commands.push([]);
  };
  const text = code.replace(/\\\n\s*/g, ' ');
  for (let i = 0; i < text.length; i++) {
    const c = text[i]!;
    if (c === "'" || c === '"') {
      const end = text.indexOf(c, i + 1);
      if (end < 0) throw new Error(`a quote is not closed: ${text.slice(i)}`);
      word = (word ?? '') + text.slice(i + 1, end);
      i = end;
    } else if (c === '#' && word === undefined) {
      while (i + 1 < text.length && text[i + 1] !== '\n') i++;
    } else if (c === '\n' || c === ';' || c === '|' || c === '&') endCommand();
    else if (/\s/.test(c)) endWord();
    else word = (word ?? '') + c;
  }
  endCommand();
  return commands
    .map((words) => {
      const first = words.findIndex((one) => one !== '$' && !/^[A-Z_]+=/.test(one));
      return first < 0 ? [] : words.slice(first);
    })
    .map((words) => {
      const redirect = words.findIndex((one) => /^\d?[<>]/.test(one));
      return redirect < 0 ? words : words.slice(0, redirect);
    })
    .filter((words) => words.length > 0);
}
