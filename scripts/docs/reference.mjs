// The reference of the API: Markdown pages out of doc comments. Text of a comment is Markdown already; signatures and
// lists of fields are written as HTML, with links on public names.
import { escapeHtml, highlight } from './markdown.mjs';
import { kinds, signatureText, typeText } from './typescript.mjs';

/** Members that serve the runtime, not the reader: what JavaScript calls by itself, and native references. */
const hidden = new Set([
  'handle',
  'toJSON',
  'toString',
  '[custom]',
  '[toPrimitive]',
  '[dispose]',
  '[asyncDispose]',
]);

const isVisible = (member) =>
  !hidden.has(member.name) && !member.flags.isProtected && !/^_/.test(member.name);
const signatureOf = (member) =>
  member.signatures?.[0] ?? member.getSignature ?? member.setSignature ?? member;
const commentOf = (member) => signatureOf(member).comment ?? member.comment;
const anchor = (text) => text.toLowerCase().replace(/[^\w.-]/g, '');

/** Finds the pages of names and checks that areas and exports are the same. */
export function indexApi(api, areas) {
  const listed = areas.flatMap(({ names }) => names);
  const missing = [...api.keys()].filter((name) => !listed.includes(name));
  const gone = listed.filter((name) => !api.has(name));
  const twice = listed.filter((name, i) => listed.indexOf(name) !== i);
  const problems = [
    ...missing.map((name) => `${name} is exported but stands in no area of scripts/docs/areas.mjs`),
    ...gone.map((name) => `${name} stands in scripts/docs/areas.mjs but is not exported`),
    ...twice.map((name) => `${name} stands twice in scripts/docs/areas.mjs`),
  ];
  const targets = new Map();
  for (const { page, names } of areas)
    for (const name of names) {
      const declaration = api.get(name);
      if (!declaration) continue;
      targets.set(name, `${page}#${anchor(name)}`);
      for (const member of declaration.children ?? [])
        if (isVisible(member))
          targets.set(`${name}.${member.name}`, `${page}#${anchor(`${name}.${member.name}`)}`);
    }
  return { targets, problems };
}

/** The comment's Markdown: its text, without tags; codes of errors and variables as code, which becomes a link. */
const prose = (parts = []) =>
  parts
    .map(({ kind, text }) => {
      if (kind === 'inline-tag') return `\`${text.trim()}\``;
      if (kind === 'code') return text;
      return text.replace(/\b(?:ERR|LORA)_[A-Z_]+\b/g, '`$&`');
    })
    .join('')
    .trim();

/** `linkTo(target)` gives the href of a target from the page that is being written; `source(path, line)` one of a source file. */
export function createReference(api, { targets, linkTo, sourceLink }) {
  const linkNames = (html) =>
    html.replace(/(<[^>]*>)|\b([A-Z]\w*)\b/g, (all, tag, word) =>
      tag !== undefined || !targets.has(word)
        ? all
        : `<a class="name" href="${linkTo(targets.get(word))}">${word}</a>`,
    );
  const codeHtml = (text) => linkNames(highlight(text, 'typescript'));
  const signatureBlock = (lines) =>
    `<div class="signature" tabindex="0"><pre><code>${lines.map(codeHtml).join('\n')}</code></pre></div>\n\n`;

  function source({ sources, entry }) {
    const [at] = sources ?? [];
    return at
      ? `<p class="source"><a href="${sourceLink(at.fileName, at.line)}">${escapeHtml(`${at.fileName}:${at.line}`)}</a>, from <code>${entry}</code></p>\n\n`
      : '';
  }

  /** Parameters that say something, what comes back, errors, examples. */
  function rest(signature) {
    const comment = signature.comment ?? {};
    const tags = (name) => (comment.blockTags ?? []).filter(({ tag }) => tag === name);
    const out = [];
    const parameters = (signature.parameters ?? []).filter(({ comment: own }) => own?.summary?.length);
    if (parameters.length > 0)
      out.push(
        '**Parameters**\n\n' +
          parameters.map((one) => `- \`${one.name}\` ${prose(one.comment.summary)}`).join('\n'),
      );
    for (const tag of tags('@returns')) out.push(`**Returns** ${prose(tag.content)}`);
    const errors = tags('@throws').map(({ content }) => prose(content));
    if (errors.length === 1) out.push(`**Errors** ${errors[0]}`);
    else if (errors.length > 1) out.push(`**Errors**\n\n${errors.map((one) => `- ${one}`).join('\n')}`);
    const examples = tags('@example').map(({ content }) => prose(content));
    if (examples.length > 0) out.push(`**Example**\n\n${examples.join('\n\n')}`);
    for (const tag of tags('@see')) out.push(`**See** ${prose(tag.content)}`);
    return out.map((part) => `${part}\n\n`).join('');
  }

  const problems = [];
  function documented(member, path) {
    const comment = commentOf(member);
    if (!comment || prose(comment.summary) === '') problems.push(`${path} has no doc comment`);
    return prose(comment?.summary);
  }

  const flagsOf = (member) =>
    `${member.flags.isOptional ? '<span class="flag">optional</span>' : ''}${member.flags.isReadonly ? '<span class="flag">read-only</span>' : ''}`;
  const memberType = (member) => {
    if (member.signatures) return signatureText(member.signatures[0], '', ' => ');
    return typeText(member.getSignature?.type ?? member.setSignature?.parameters?.[0].type ?? member.type);
  };

  /** Fields of an object type: name, type, what it is. */
  function fields(members, path) {
    const rows = members.map((member) => {
      const id = anchor(`${path}.${member.name}`);
      const text = documented(member, `${path}.${member.name}`);
      return (
        `<div class="field" id="${id}">\n<div class="field-head"><a class="field-name" href="#${id}"><code>${escapeHtml(member.name)}</code></a> ` +
        `<code class="type">${codeHtml(memberType(member))}</code>${flagsOf(member)}</div>\n\n${text}\n\n</div>\n`
      );
    });
    return `<div class="fields">\n${rows.join('')}</div>\n\n`;
  }

  function classMember(owner, member) {
    const path = `${owner.name}.${member.name}`;
    const isStatic = member.flags.isStatic;
    const text = documented(member, path);
    const call = member.name.startsWith('[') ? `[Symbol.${member.name.slice(1)}` : member.name;
    const title = `${isStatic ? `${owner.name}.` : ''}${call}${member.signatures ? '()' : ''}`;
    const heading = `### ${title.replace(/([[\]<>*_])/g, '\\$1')} {#${anchor(path)}}\n\n`;
    const lines = member.signatures
      ? member.signatures.map((one) => signatureText(one, `${isStatic ? `${owner.name}.` : ''}${call}`))
      : [
          `${member.flags.isReadonly || (member.getSignature && !member.setSignature) ? 'readonly ' : ''}${call}: ${memberType(member)}`,
        ];
    return `${heading}${signatureBlock(lines)}${text}\n\n${rest(signatureOf(member))}`;
  }

  function ownMembers(declaration) {
    return (declaration.children ?? []).filter(
      (member) => isVisible(member) && !(declaration.kind === kinds.class && member.inheritedFrom),
    );
  }

  /** What the constructor says for itself. */
  function construction(signature) {
    const text = prose(signature.comment?.summary);
    const tail = rest(signature);
    return text === '' && tail === '' ? '' : `**Constructor** ${text}\n\n${tail}`;
  }

  function classPage(declaration) {
    const members = ownMembers(declaration);
    const made = members.find(({ kind }) => kind === kinds.constructor);
    const parents = declaration.extendedTypes?.map((type) => typeText(type)).join(', ');
    let out = signatureBlock([
      `class ${declaration.name}${parents ? ` extends ${parents}` : ''}`,
      ...(made ? made.signatures.map((one) => signatureText(one, `new ${declaration.name}`, null)) : []),
    ]);
    out += `${documented(declaration, declaration.name)}\n\n${rest(declaration)}`;
    if (made) out += construction(made.signatures[0]);
    const properties = members.filter(({ kind }) => kind === kinds.property || kind === kinds.accessor);
    if (properties.length > 0) out += `**Properties**\n\n${fields(properties, declaration.name)}`;
    for (const member of members.filter(({ kind }) => kind === kinds.method))
      out += classMember(declaration, member);
    return out;
  }

  function interfacePage(declaration) {
    const members = ownMembers(declaration);
    const parents = declaration.extendedTypes?.map((type) => typeText(type)).join(', ');
    const generics = declaration.typeParameters?.length
      ? `<${declaration.typeParameters.map(({ name }) => name).join(', ')}>`
      : '';
    return (
      signatureBlock([`interface ${declaration.name}${generics}${parents ? ` extends ${parents}` : ''}`]) +
      `${documented(declaration, declaration.name)}\n\n${rest(declaration)}` +
      (members.length > 0 ? fields(members, declaration.name) : '')
    );
  }

  function aliasPage(declaration) {
    const { type } = declaration;
    const members =
      type.type === 'reflection' && !type.declaration.signatures ? type.declaration.children : undefined;
    const text = `type ${declaration.name} = ${typeText(type)}`;
    const broken =
      text.length > 84 && type.type === 'union'
        ? `type ${declaration.name} =\n${type.types.map((one) => `  | ${typeText(one, 2)}`).join('\n')}`
        : text;
    return (
      signatureBlock([members ? `interface ${declaration.name}` : broken]) +
      `${documented(declaration, declaration.name)}\n\n${rest(declaration)}` +
      (members ? fields(members, declaration.name) : '')
    );
  }

  function entry(name) {
    const declaration = api.get(name);
    const heading = `## ${name} {#${anchor(name)}}\n\n`;
    let body;
    if (declaration.kind === kinds.class) body = classPage(declaration);
    else if (declaration.kind === kinds.interface) body = interfacePage(declaration);
    else if (declaration.kind === kinds.function)
      body =
        signatureBlock(declaration.signatures.map((one) => signatureText(one, name))) +
        `${documented(declaration, name)}\n\n${rest(declaration.signatures[0])}`;
    else body = aliasPage(declaration);
    return `${heading}${body}${source(declaration)}`;
  }

  return {
    problems,
    /** The Markdown of one area's page. */
    page: ({ title, intro, names }) =>
      `# ${title}\n\n${intro}\n\n${names
        .filter((name) => api.has(name))
        .map(entry)
        .join('')}`,
    /** The fields of an interface, for pages that are written by hand. */
    fieldsOf: (name) => {
      const declaration = api.get(name);
      if (!declaration) throw new Error(`no public type ${name}`);
      return fields(ownMembers(declaration), `${name}`);
    },
  };
}
