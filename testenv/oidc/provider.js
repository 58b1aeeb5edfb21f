// An OpenID Connect provider for tests: the certified oidc-provider, over HTTPS on a free port of loopback, with a grant
// that asks no human. Arguments: the certificate's file and the key's. The first line of standard output is the issuer.
//
// Beside what every provider has (discovery, /jwks, /token) there is
//   POST /testenv/rotate   a new signing key; the old ones are published no longer
//   POST /testenv/rekey    a new signing key with the name of the old one
//   POST /testenv/hang     answers nothing from now on, until
//   POST /testenv/resume
//   GET  /testenv/fetches  how often the keys were asked for
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import Provider from 'oidc-provider';

const GRANT = 'urn:underpass:testenv';

let ids;
const rename = () => { ids = [randomUUID(), randomUUID()]; };
rename();
const signingKeys = () => [
  ['rsa', { modulusLength: 2048 }, 'RS256'],
  ['ec', { namedCurve: 'P-256' }, 'ES256'],
].map(([type, options, alg], position) => {
  const { privateKey } = generateKeyPairSync(type, options);
  return { ...privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: ids[position] };
});

const client = (id, alg) => ({
  client_id: id,
  client_secret: 'not-a-secret',
  grant_types: [GRANT],
  redirect_uris: [],
  response_types: [],
  id_token_signed_response_alg: alg,
});

function provider(issuer) {
  const made = new Provider(issuer, {
    clients: [client('underpass', 'RS256'), client('underpass-es256', 'ES256'), client('other', 'RS256')],
    jwks: { keys: signingKeys() },
    cookies: { keys: [randomUUID()] },
    claims: { openid: ['sub', 'email', 'email_verified', 'groups', 'hasgroups', 'hd', 'team', 'oid'] },
    conformIdTokenClaims: false,
    features: { devInteractions: { enabled: false } },
    findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  });
  // An ID token of whom the caller says, made as for any other grant.
  const grant = async (ctx, next) => {
    const { claims, ttl } = ctx.oidc.params;
    const token = new made.IdToken(JSON.parse(claims), { ctx });
    token.scope = 'openid';
    const expiresAt = Math.floor(Date.now() / 1000) + Number(ttl ?? 600);
    ctx.body = { id_token: await token.issue({ use: 'idtoken', expiresAt }), token_type: 'Bearer' };
    await next();
  };
  made.on('server_error', (ctx, error) => console.error(error));
  made.registerGrantType(GRANT, grant, ['claims', 'ttl']);
  return made.callback();
}

const [certificate, key] = process.argv.slice(2).map((path) => readFileSync(path));
let handle;
let hanging = false;
let fetches = 0;
const server = createServer({ cert: certificate, key }, (request, response) => {
  const issuer = `https://localhost:${server.address().port}`;
  if (request.url === '/testenv/rotate') {
    rename();
    handle = provider(issuer);
  }
  if (request.url === '/testenv/rekey') handle = provider(issuer);
  if (request.url === '/testenv/hang') hanging = true;
  if (request.url === '/testenv/resume') hanging = false;
  if (request.url.startsWith('/testenv/')) response.end(String(fetches));
  else if (!hanging) {
    if (request.url === '/jwks') fetches += 1;
    handle(request, response);
  }
});
server.listen(0, 'localhost', () => {
  const issuer = `https://localhost:${server.address().port}`;
  handle = provider(issuer);
  console.log(issuer);
});
