// A certified OpenID provider on loopback, with its own pages, for the login specs.
//   node provider.js ISSUER ACCOUNTS CLIENT_ID SERVER SECONDS [SECRET]
// ACCOUNTS is a JSON file of names and their roles, read whenever somebody is looked up; SERVER is the address of two
// clients, which must use PKCE; its ID tokens are good for SECONDS.
// With a SECRET the client must show it.
import { readFileSync } from 'node:fs';
import Provider from 'oidc-provider';

const [issuer, accounts, clientId, server, seconds, secret] = process.argv.slice(2);

function findAccount(context, name) {
  const roles = JSON.parse(readFileSync(accounts, 'utf8'))[name];
  if (!roles) return undefined;
  return { accountId: name, claims: () => ({ sub: name, preferred_username: name, realm_access: { roles } }) };
}

const provider = new Provider(issuer, {
  clients: [clientId, 'another-client'].map((name) => ({
    client_id: name,
    application_type: 'native', // an address of loopback without TLS
    ...(secret ? { client_secret: secret } : { token_endpoint_auth_method: 'none' }),
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: [`${server}/login/callback`],
    post_logout_redirect_uris: [`${server}/`],
  })),
  claims: { openid: ['sub'], profile: ['preferred_username', 'realm_access'] },
  conformIdTokenClaims: false,
  cookies: { keys: ['only for these specs'] },
  findAccount,
  issueRefreshToken: () => true,
  pkce: { required: () => true },
  ttl: { IdToken: Number(seconds), AccessToken: Number(seconds) },
});
provider.on('grant.success', ({ oidc }) => console.log(`granted ${oidc.params.grant_type}`));
provider.on('grant.error', ({ oidc }, error) => console.log(`refused ${oidc.params?.grant_type}: ${error.message}`));
const { hostname, port } = new URL(issuer);
provider.listen(Number(port), hostname, () => console.log('listening'));
