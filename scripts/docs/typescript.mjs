// TypeDoc's JSON of what lib/ exports, and its types as text.
import { join } from 'node:path';
import { Application } from 'typedoc';

/** TypeDoc's numbers for kinds of declarations. */
export const kinds = {
  variable: 32,
  function: 64,
  class: 128,
  interface: 256,
  constructor: 512,
  property: 1024,
  method: 2048,
  accessor: 262144,
  typeAlias: 2097152,
};

/** The public declarations by name, each with the entry that programs import it from. Warnings of TypeDoc about doc comments are errors. */
export async function readApi(root) {
  const app = await Application.bootstrap({
    entryPoints: [
      'index.ts',
      'serve/index.ts',
      'compare/index.ts',
      'train/index.ts',
      'ai-sdk/index.ts',
      'langchain/index.ts',
    ].map((file) => join(root, 'lib', file)),
    tsconfig: join(root, 'scripts/docs/tsconfig.json'),
    skipErrorChecking: true, // `npm run typecheck` has done that
    excludeInternal: true,
    excludePrivate: true,
    readme: 'none',
    validation: { notExported: false, invalidLink: true, notDocumented: false },
    logLevel: 'Warn',
    sort: ['source-order'],
    disableGit: true,
    basePath: root,
    sourceLinkTemplate: '{path}#L{line}',
  });
  const project = await app.convert();
  if (!project || app.logger.hasErrors() || app.logger.hasWarnings())
    throw new Error('typedoc cannot read the doc comments of lib/ (see above)');
  const { children } = app.serializer.projectToObject(project, root);
  const entries = children.flatMap(({ name, children: names }) =>
    names
      .filter(({ variant }) => variant !== 'reference') // what the main entry exports, too
      .map((child) => [child.name, { ...child, entry: name.replace(/^lib/, 'lora-native') }]),
  );
  return new Map(entries);
}

const precedence = { conditional: 0, union: 1, intersection: 2 };

/** A type as TypeScript writes it. */
export function typeText(type, parent = 0) {
  const wrap = (text, own) => (own < parent ? `(${text})` : text);
  switch (type.type) {
    case 'intrinsic':
      return type.name;
    case 'literal':
      return type.value === null
        ? 'null'
        : typeof type.value === 'string'
          ? `'${type.value}'`
          : `${type.value}`;
    case 'reference':
      return `${(type.qualifiedName ?? type.name).replace(/^(?:__global|globalThis)\./, '')}${typeArguments(type.typeArguments)}`;
    case 'array':
      return `${typeText(type.elementType, 3)}[]`;
    case 'tuple':
      return `[${(type.elements ?? []).map((element) => typeText(element)).join(', ')}]`;
    case 'namedTupleMember':
      return `${type.name}${type.isOptional ? '?' : ''}: ${typeText(type.element)}`;
    case 'optional':
      return `${typeText(type.elementType, 3)}?`;
    case 'rest':
      return `...${typeText(type.elementType, 3)}`;
    case 'union': {
      // `true | false` is how TypeDoc sees an optional boolean.
      const parts = type.types.map((one) => typeText(one, precedence.intersection));
      return wrap(parts.join(' | '), precedence.union);
    }
    case 'intersection':
      return wrap(type.types.map((one) => typeText(one, 3)).join(' & '), precedence.intersection);
    case 'typeOperator':
      return wrap(`${type.operator} ${typeText(type.target, 3)}`, 2);
    case 'indexedAccess':
      return `${typeText(type.objectType, 3)}[${typeText(type.indexType)}]`;
    case 'query':
      return `typeof ${typeText(type.queryType)}`;
    case 'predicate':
      return `${type.asserts ? 'asserts ' : ''}${type.name}${type.targetType ? ` is ${typeText(type.targetType)}` : ''}`;
    case 'conditional':
      return wrap(
        `${typeText(type.checkType, 1)} extends ${typeText(type.extendsType, 1)} ? ${typeText(type.trueType)} : ${typeText(type.falseType)}`,
        precedence.conditional,
      );
    case 'inferred':
      return `infer ${type.name}`;
    case 'mapped':
      return `{ [${type.parameter} in ${typeText(type.parameterType)}]${type.optionalModifier === '+' ? '?' : ''}: ${typeText(type.templateType)} }`;
    case 'templateLiteral':
      return `\`${type.head}${type.tail.map(([one, text]) => `\${${typeText(one)}}${text}`).join('')}\``;
    case 'reflection':
      return wrap(declarationText(type.declaration), type.declaration.signatures ? 0 : 4);
    case 'unknown':
      return type.name;
    default:
      throw new Error(`the documentation does not know how to write a type of kind '${type.type}'`);
  }
}

const typeArguments = (list) =>
  list?.length ? `<${list.map((argument) => typeText(argument)).join(', ')}>` : '';

/** An object type or a function type. */
function declarationText({ signatures, children = [], indexSignatures = [] }) {
  if (signatures && children.length === 0) return signatureText(signatures[0], '', ' => ');
  const fields = [
    ...indexSignatures.map(
      ({ parameters: [key], type }) => `[${key.name}: ${typeText(key.type)}]: ${typeText(type)}`,
    ),
    ...children.map((child) =>
      child.signatures
        ? signatureText(child.signatures[0], child.name, ': ')
        : `${child.name}${child.flags.isOptional ? '?' : ''}: ${typeText(child.type)}`,
    ),
  ];
  return fields.length === 0 ? '{}' : `{ ${fields.join('; ')} }`;
}

/** `name<T>(a: A, b?: B): C`; lines are broken when it is long. */
export function signatureText(signature, name, arrow = ': ', width = 84) {
  const generics = signature.typeParameters?.length
    ? `<${signature.typeParameters
        .map(
          (one) =>
            `${one.name}${one.type ? ` extends ${typeText(one.type)}` : ''}${one.default ? ` = ${typeText(one.default)}` : ''}`,
        )
        .join(', ')}>`
    : '';
  const parameters = (signature.parameters ?? []).map(
    (one) =>
      `${one.flags.isRest ? '...' : ''}${one.name === '__namedParameters' ? 'options' : one.name}${one.flags.isOptional || one.defaultValue !== undefined ? '?' : ''}: ${typeText(one.type)}`,
  );
  // A constructor makes what it is named after.
  const result = arrow === null ? '' : `${arrow}${typeText(signature.type, arrow === ': ' ? 0 : 1)}`;
  const line = `${name}${generics}(${parameters.join(', ')})${result}`;
  if (line.length <= width || parameters.length === 0 || name === '') return line;
  return `${name}${generics}(\n${parameters.map((one) => `  ${one},\n`).join('')})${result}`;
}
