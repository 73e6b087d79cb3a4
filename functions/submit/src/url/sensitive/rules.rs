//! The rules: one line each, with what such a link opens, its shape ([`Pattern`]) or the form of its token, and an
//! example that must be refused.
//!
//! In examples `{k20}` stands for a key of 20 characters that looks drawn at random, `{h32}` for hexadecimal digits,
//! `{u16}` for capitals and digits, `{d6}` for digits, `{jwt}` for a JSON Web Token: scanners for secrets would take
//! written ones for real.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::pattern::{Link, Pattern};

/// The longest header of a JWT that is read; real ones are far below.
const JWT_HEADER: usize = 4_096;

/// A shape of links that open something.
struct Rule {
    opens: &'static str,
    pattern: &'static str,
    #[cfg(test)]
    example: &'static str,
}

const fn link(opens: &'static str, pattern: &'static str, example: &'static str) -> Rule {
    let _ = example;
    Rule {
        opens,
        pattern,
        #[cfg(test)]
        example,
    }
}

#[rustfmt::skip] // one rule a line, however long
const LINKS: &[Rule] = &[
    // Whatever the host: parameters that are named like secrets.
    link("an access token", "*?accesstoken|accesskey|apitoken|authkey|authorization|authtoken|bearer|bearertoken|idtoken|jwt|oauthtoken|privatetoken|refreshtoken|securitytoken|sessiontoken|ssotoken|sastoken|bottoken|feedtoken|icaltoken|usertoken|jobtoken|circletoken|xamzsecuritytoken=$secret", "https://a.example/?access_token=ya29abcdefg"),
    link("an API key", "*?apikey|xapikey|clientsecret|secretkey|apisecret|appsecret|sharedsecret|privatekey|subscriptionkey|ocpapimsubscriptionkey|workflowapikey|zapikey|xfunctionskey=$secret", "https://a.example/?api_key={h16}"),
    link("a password reset", "*?resetcode|resetkey|resettoken|resetpasswordtoken|passwordtoken|passwordresettoken|passwordresetkey|recoverytoken|recoverycode|unlocktoken=$code", "https://a.example/?reset_token={k12}"),
    link("a confirmation", "*?confirmationtoken|confirmationcode|confirmationkey|confirmtoken|confirmcode|confirmkey|activationtoken|activationcode|activationkey|emailtoken|verificationtoken|verificationcode|verificationkey|verifytoken|verifycode|oobcode|subscriptiontoken=$code", "https://a.example/?confirmation_token={k20}"),
    link("a sign-in", "*?logintoken|loginkey|logincode|loginticket|magictoken|magiccode|magiclink|magiccredential|onetimetoken|onetimepassword|otptoken|signintoken|authcode|tokenhash|stytchtoken|clerkticket=$code", "https://a.example/?login_token={k20}"),
    link("an invitation", "*?invitationtoken|invitetoken|invitationkey|invitekey|sharetoken|sharekey|sharelinkid|authkey|rlkey=$code", "https://a.example/?invitation_token={k20}"),
    link("a password", "*?passwd|passphrase|password|userpassword|passwort|kennwort=$any", "https://a.example/?password=hunter2"),
    link("a session of a web server", "*?jsessionid|phpsessid|aspsessionid|aspxauth|cfid|cftoken=$long", "https://a.example/page;jsessionid={u20}"),
    link("a single sign-on assertion", "*?samlresponse|assertion|samlart|wresult=$long", "https://a.example/acs?SAMLResponse={k60}"),
    link("a CAS ticket", "*?ticket=st-$any|tgt-$any|pt-$any", "https://a.example/?ticket=ST-1-{k12}"),

    // Answers of sign-ins: who redeems the code first is the user.
    link("an OAuth code", "*?code=$long&state=$any", "https://a.example/cb?code={k24}&state=xyz"),
    link("an OAuth code", "*?code=$key&state=$key", "https://a.example/?code={k8}&state={k8}"),
    link("an OAuth code", "*?code=$long&scope|iss|sessionstate|authuser=$any", "https://a.example/cb?code={k24}&scope=email"),
    link("an OAuth code", "*/**/*callback*|*oauth*|*oidc*|*sso*|*redirect*|auth|cb?code=$key&state|scope|iss=$any", "https://a.example/oauth/callback?code={k8}&state=1"),
    link("an OAuth code", "*/**/*callback*|*oauth*|*oidc*?code=$any&state=$any", "https://a.example/login/callback?code=x7K&state=1"),
    link("an OAuth code", "*/**/*callback*|*oauth*|*oidc*?code=$long", "https://a.example/auth/callback?code={k24}"),
    link("a link to sign in", "*/**/*callback*?token|otp=$key", "https://a.example/api/auth/callback/email?token={h12}"),
    link("an OAuth 1 verifier", "*?oauthverifier=$code", "https://a.example/cb?oauth_token={k20}&oauth_verifier={k20}"),

    // Resets, confirmations, invitations and links to sign in.
    link("a password reset", "*/**/@reset/**/$long", "https://a.example/users/password_reset/{k24}/edit"),
    link("a password reset", "*/**/@reset/$key/!", "https://a.example/reset-password/{k8}"),
    link("a password reset", "*/**/@reset/*/$key/!", "https://a.example/reset/MQ/c5z-{h20}/"),
    link("a password reset", "*/**/@account/**/reset|recover|recovery|edit|change|restore|key|set/**/$key/!", "https://a.example/accounts/password/reset/key/1-{k12}/"),
    link("a password reset", "*/**/@reset?@key|secret|sig|signature|guid|uid=$code", "https://a.example/reset-password?token={k8}"),
    link("a password reset", "*/**/@reset?token|ticket|code=$secret", "https://a.example/reset-password?token=abc.def.ghi"),
    link("a password reset", "*/**/@reset?id|data|u|r|p|s|i|link|request=$long", "https://a.example/reset-password?id={k20}"),
    link("a password reset", "*/**/password|passwords/**/edit|reset|change|new|set|recover?@key=$code", "https://a.example/password/edit?token={k8}"),
    link("a link to sign in", "*/**/@magic/**/$key/!", "https://a.example/auth/magic-link/{k8}"),
    link("a link to sign in", "*/**/@magic?@key|secret|sig|state|id|password=$code", "https://a.example/magic-login?token={k8}"),
    link("a link to sign in", "*/**/@login/magic|email|link|otp|token|verify|confirm|onetime|passwordless|redirect/**/$key/!", "https://a.example/login/token/{k12}"),
    link("a link to sign in", "*/**/@login/magic|email|link|otp|verify|confirm|onetime|passwordless?@key=$code", "https://a.example/auth/verify?token={k12}"),
    link("a link to sign in", "*/**/@login?otp|ticket|onetimecode|emailcode|magic=$code", "https://a.example/signin?otp={d6}"),
    link("a confirmation", "*/**/@confirm/**/$key/!", "https://a.example/verify-email/{k8}"),
    link("a confirmation", "*/**/@confirm/!?@key|secret|signature|data=$code", "https://a.example/confirm?token={k8}"),
    link("a confirmation", "*/**/@confirm?i|u=$long", "https://a.example/account/confirm_email_reset?i={h16}"),
    link("a confirmation", "list-manage.com/subscribe/confirm?u=$any&e=$any", "https://corp.us1.list-manage.com/subscribe/confirm?u={h16}&id=x&e={h8}"),
    link("an invitation", "*/**/@invite/**/$key/!", "https://a.example/invite/{k8}"),
    link("an invitation", "*/**/@invite/**/$long", "https://a.example/invitations/{k20}/accept"),
    link("an invitation", "*/**/*signup*?id|i=$long", "https://chat.example/signup_user_complete/?id={k26}"),
    link("an invitation", "*/**/@invite|accept|join/!?@key|invite|invitation|secret|id|i=$code", "https://a.example/accept-invite?key={k8}"),
    link("an invitation", "*/**/@signup?token|key|ticket|invite|invitation|invitecode=$code", "https://a.example/signup?token={k12}"),
    link("an invitation", "*/**/join|accept/$key/!", "https://a.example/join/{k20}"),
    link("a password reset", "*?wcresetpassword|resetpassword|showresetform=true|1&@key=$code", "https://shop.example/?wc_reset_password=true&id=1&key={k20}"),
    link("a link to sign in", "*/**/=login|=signin|=logon|=auth/!?token|key|code=$key", "https://app.example/login?token={k8}"),
    link("a step that only its bearer may take", "*?action|mode|task|view|layout|operation|flow|purpose|step|do|type|intent|event=rp|resetpass|resetpwd|signup|emailchange|recoveremail|*activate|*confirm|*verify|@reset|@magic|@confirm|@invite&token|tokenhash|key|code|ticket|otp|hash|k|secret|oob=$code", "https://blog.example/wp-login.php?action=rp&key={k20}&login=admin"),
    link("a Supabase sign-in", "*/auth/v1/verify|callback?token|tokenhash|code=$code", "https://x.supabase.co/auth/v1/verify?token={h40}&type=recovery"),
    link("an Auth0 ticket", "*/u|lo/**?ticket=$any", "https://x.auth0.com/u/reset-verify?ticket=x7Kq#"),
    link("a Ghost sign-in", "*/members?token=$key&action=signin|signup|subscribe", "https://blog.example/members/?token={k20}&action=signin"),
    link("a Drupal sign-in", "*/**/user/reset/*/*/$key", "https://a.example/user/reset/1/1700000000/{k20}"),
    link("a Django confirmation", "*/**/*confirm*|*activate*|*verify*/$any/$long/!", "https://a.example/activate/MQ/c5z-{h20}/"),
    link("a Keycloak action", "*/**/loginactions/*?key|sessioncode=$long", "https://a.example/realms/x/login-actions/action-token?key={k60}"),
    link("an Okta sign-in", "*/**/welcome|signin|activate/**?statetoken|token=$key", "https://a.okta.com/signin/x?stateToken={k20}"),
    link("a Slack sign-in", "slack.com/z-app-$any", "https://corp.slack.com/z-app-{d12}-{k20}"),
    link("a Salesforce sign-in", "*/**/login|frontdoor?c|sid|secretid=$long&un|uname|otp|returl=$any", "https://corp.my.salesforce.com/login?c={k40}&un=a%40corp.example"),
    link("a Facebook recovery", "facebook.com/recover/**?n|code=$code", "https://www.facebook.com/recover/code?n={d6}"),
    link("a session of Salesforce", "*/**/frontdoor?sid|otp=$long", "https://corp.my.salesforce.com/secur/frontdoor.jsp?sid={k40}"),

    // Signed for a while.
    link("a signed URL", "*?signature|*signature|xamzsignature|xgoogsignature|xosssignature|qsignature=$long", "https://a.example/x?signature={k20}"),
    link("a signed URL", "*?sig|signature|mac|hmac|xamzsignature|xgoogsignature|md5=$any&se|sv|st|expires|expire|exp|expiry|expiration|e|ttl|ts|timestamp|until|valid|validuntil|validto|deadline=$time|$version|$key", "https://a.blob.core.windows.net/c/b?sv=2022-11-02&se=2026-01-01T00%3A00%3A00Z&sr=b&sp=r&sig=x7K%3D"),
    link("a signed URL", "*?xamzsignature|xgoogsignature|wmsauthsign=$any", "https://a.example/x?X-Amz-Signature=x7K"),
    link("a signed URL", "*?signature=$any&keypairid|policy|googleaccessid|awsaccesskeyid|ossaccesskeyid=$any", "https://cdn.example/x?Policy=x&Signature=x7K&Key-Pair-Id=K1"),
    link("a signed URL", "*?sign|s=$key&e|t|ts=$unix", "https://cdn.example/x?s={k8}&e=1700000000"),
    link("a signed URL", "*?token|hash|key|st|sign|verify|h|s|auth|t=$key&expires|expire|exp|expiry|expiration|validuntil|expireson|validto=$time", "https://cdn.example/x?token={k16}&expires=1700000000"),
    link("a signed URL", "*?hdnts|hdnea|hdntl|token|cdntoken=*hmac*", "https://cdn.example/v?hdnts=exp=1700000000~acl=/*~hmac={h16}"),
    link("a signed URL", "*?cloudfrontsignature|googlesignature|bunnytoken|authsig|qsignaltime|urlsignature=$any", "https://cdn.example/v?CloudFront-Signature={k20}"),
    link("a signed URL", "*?key|authkey|sign|auth=$long&qkeytime|qsigntime|uid|rand=$any", "https://cdn.example/v?auth_key=1700000000-0-0-{h32}&rand=1"),
    link("an Alibaba or Tencent signed URL", "*?qsignature|xosssignature|xobssignature|xtossignature|xcossignature=$secret", "https://b.oss-cn-x.aliyuncs.com/o?x-oss-signature={h32}"),

    // Function keys and incoming web hooks.
    link("an Azure function", "azurewebsites.net|azurefunctions.net/api/**?code=$key", "https://x.azurewebsites.net/api/f?code={k10}"),
    link("an Azure function", "azurewebsites.net|azurefunctions.net|azure-api.net|azurecontainerapps.io?code=$long", "https://x.azurewebsites.net/api/f?code={k40}=="),
    link("an Azure workflow", "logic.azure.com|api.powerplatform.com|azure-apihub.net?sig=$any", "https://prod-1.westeurope.logic.azure.com/workflows/x/triggers/manual/paths/invoke?api-version=1&sig=x7K"),
    link("an Azure runbook", "azure-automation.net/webhooks?token=$any", "https://x.webhook.we.azure-automation.net/webhooks?token={k40}"),
    link("a Slack web hook", "hooks.slack.com|hooks.slack-gov.com/services|workflows|triggers/$any/$any", "https://hooks.slack.com/services/T{u8}/B{u8}/{k24}"),
    link("a Teams web hook", "webhook.office.com/*webhook*/$any", "https://corp.webhook.office.com/webhookb2/{h8}@{h8}/IncomingWebhook/{h32}"),
    link("a Teams web hook", "outlook.office.com|outlook.office365.com/webhook/$any", "https://outlook.office.com/webhook/{h8}@{h8}/IncomingWebhook/{h32}"),
    link("a Discord web hook", "discord.com|discordapp.com/api/**/webhooks/$any/$any", "https://discord.com/api/v10/webhooks/{d18}/{k40}"),
    link("a Telegram bot", "api.telegram.org/**/bot$secret", "https://api.telegram.org/bot{d9}:{k35}/sendMessage"),
    link("a Google Chat web hook", "chat.googleapis.com/v1/spaces/**?key|token=$any", "https://chat.googleapis.com/v1/spaces/x/messages?key=a&token=b"),
    link("a Zapier web hook", "hooks.zapier.com/hooks/*/$any/$any", "https://hooks.zapier.com/hooks/catch/{d6}/{k6}/"),
    link("a Make web hook", "hook.*/$key/!", "https://hook.eu1.make.com/{k32}"),
    link("an IFTTT web hook", "maker.ifttt.com/trigger/*/**/key/$any", "https://maker.ifttt.com/trigger/x/with/key/{k22}"),
    link("a Make web hook", "hook.eu1.make.com|hook.eu2.make.com|hook.us1.make.com|hook.us2.make.com|hook.integromat.com/$any/!", "https://hook.eu1.make.com/orders"),
    link("an n8n web hook", "n8n.cloud|n8n.*/webhook*/$any", "https://x.app.n8n.cloud/webhook/orders"),
    link("a web hook", "*/**/webhook|webhooks|webhooktest|webhookwaiting|hook|hooks|webhookb2|inboundwebhook|genericwebhook|catch|incoming|sendwebhookdata|webhooktriggers/**/$key", "https://n8n.corp.example/webhook/{h8}-{h4}-{h4}-{h4}-{h12}"),
    link("a web hook", "*/**/*webhook*|*incominghook*|triggerwebhook|genericwebhooktrigger/**?token|key|secret|code|auth|sig|signature|apikey=$code", "https://ci.example/generic-webhook-trigger/invoke?token={k12}"),
    link("a web hook", "hooks.*|webhooks.*|webhook.*|connect.pabbly.com|automation.atlassian.com/**/$key", "https://hooks.torq.io/v1/{k24}"),
    link("a Pipedream web hook", "m.pipedream.net", "https://eo{k11}.m.pipedream.net/"),
    link("a Pushover message", "api.pushover.net?token=$any", "https://api.pushover.net/1/messages.json?token={k30}"),
    link("a Tines web hook", "tines.com|tines.io/webhook/$any/$any", "https://x.tines.com/webhook/{h32}/{h32}"),
    link("a Feishu or Lark web hook", "open.feishu.cn|open.larksuite.com/openapis/bot/*/hook/$any", "https://open.feishu.cn/open-apis/bot/v2/hook/{h32}"),
    link("a WeCom web hook", "qyapi.weixin.qq.com/cgibin/webhook/send?key=$any", "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key={h32}"),
    link("a Webex web hook", "webexapis.com|api.ciscospark.com/v1/webhooks/incoming/$any", "https://webexapis.com/v1/webhooks/incoming/{k40}"),
    link("an alert's entry", "events.pagerduty.com/integration|x-ere/$any", "https://events.pagerduty.com/integration/{h32}/enqueue"),
    link("an alert's entry", "alert.victorops.com|alert.splunk.com/integrations/generic/**/$long", "https://alert.victorops.com/integrations/generic/20131114/alert/{h32}/team"),
    link("a Bitrix web hook", "*/rest/$any/$key/**", "https://corp.bitrix24.de/rest/1/{k16}/profile.json"),
    link("a GitLab pipeline", "*/**/trigger/pipeline?token=$any", "https://gitlab.example/api/v4/projects/1/trigger/pipeline?token={k20}"),
    link("a Jenkins build", "*/**/job/**/build|buildwithparameters?token=$any", "https://ci.example/job/x/build?token=secret"),
    link("a Home Assistant web hook", "*/api/webhook/$any", "https://ha.example/api/webhook/front-door"),

    // Shared files and documents.
    link("a Dropbox file", "dropbox.com|dropboxusercontent.com|db.tt/s|scl|sh|t|l|request/$any", "https://www.dropbox.com/s/{k15}/file.pdf?dl=0"),
    link("a Box file", "box.com/s|v|f/$any", "https://app.box.com/s/{k32}"),
    link("a Box file", "box.com/shared/static/$any", "https://corp.box.com/shared/static/{k32}.pdf"),
    link("a transfer of files", "we.tl/t-$any", "https://we.tl/t-{k10}"),
    link("a transfer of files", "wetransfer.com/downloads/$any", "https://wetransfer.com/downloads/{h32}/{h6}"),
    link("a transfer of files", "swisstransfer.com|filemail.com|transfernow.net|transferxl.com|filetransfer.io|send-anywhere.com|sendgb.com|tresorit.com|sync.com/d|dl|l|data-package|download|link|web|f/**/$key", "https://www.swisstransfer.com/d/{h8}-{h4}-{h4}-{h4}-{h12}"),
    link("a transfer of files", "tresorit.com/l/$any", "https://web.tresorit.com/l/{k5}#{k22}"),
    link("a transfer of files", "fromsmash.com|jumpshare.com|wormhole.app|send.tresorit.com|spaces.hightail.com|hightail.com/**/$key", "https://fromsmash.com/{k11}"),
    link("an envelope to sign", "docusign.net|docusign.com/**/signing/**?a|ti|slt|e|t=$any", "https://na3.docusign.net/Signing/?ti={h32}"),
    link("an envelope to sign", "docusign.net|docusign.com/**/emailstart|startinsession?*=$any", "https://na3.docusign.net/Signing/EmailStart.aspx?a={h32}&acct={h32}"),
    link("a document to sign", "adobesign.com|echosign.com/public/$any", "https://corp.na1.adobesign.com/public/esign?tsid={k40}"),
    link("a document to sign", "hellosign.com|dropboxsign.com|pandadoc.com|signnow.com|yousign.com|skribble.com|signrequest.com|boldsign.com/**/$long", "https://app.hellosign.com/sign/{h40}"),
    link("a Firebase file", "firebasestorage.googleapis.com?token=$any", "https://firebasestorage.googleapis.com/v0/b/x/o/y?alt=media&token={h32}"),
    link("a private file of GitHub", "githubusercontent.com|github.com?token=$secret", "https://raw.githubusercontent.com/a/b/main/c?token={u29}"),
    link("a Google document", "docs.google.com/document|spreadsheets|presentation|drawings|file/**/d/$long", "https://docs.google.com/document/d/{k44}/edit?usp=sharing"),
    link("a Google file", "drive.google.com|drive.usercontent.google.com/**/d|folders/$long", "https://drive.google.com/file/d/{k33}/view"),
    link("a Google file", "docs.google.com|drive.google.com|drive.usercontent.google.com?id=$long", "https://drive.google.com/open?id={k33}"),
    link("a shared album", "photos.google.com|photos.app.goo.gl/share/$any", "https://photos.google.com/share/{k60}?key={k40}"),
    link("a shared album", "photos.app.goo.gl/$key", "https://photos.app.goo.gl/{k17}"),
    link("a SharePoint file", "sharepoint.com|sharepoint.us|sharepoint.cn|onedrive.live.com/**/$kind", "https://corp.sharepoint.com/:w:/s/team/E{k40}?e=x7Kq2p"),
    link("a SharePoint file", "sharepoint.com|sharepoint.us|sharepoint.cn/**/guestaccess|download?share|docid|tempauth|guestaccesstoken=$any", "https://corp.sharepoint.com/s/_layouts/15/guestaccess.aspx?share=E{k40}"),
    link("a SharePoint file", "sharepoint.com|sharepoint.us|sharepoint.cn|svc.ms?tempauth|guestaccesstoken=$any", "https://corp.sharepoint.com/s/x/a.docx?tempauth=v1.{k40}"),
    link("a SharePoint file", "sharepoint.com|sharepoint.us|sharepoint.cn?e=$key&d|csf|web=$any", "https://corp.sharepoint.com/sites/x/a.docx?d=w1&csf=1&web=1&e={k6}"),
    link("a Box file", "box.com/file|folder/**?s=$key", "https://app.box.com/file/123456789?s={k32}"),
    link("a OneDrive file", "onedrive.live.com?authkey|resid|redeem|cid=$any", "https://onedrive.live.com/?authkey=%21A{k14}&id=1"),
    link("a OneDrive file", "1drv.ms/*/$any", "https://1drv.ms/w/s!A{k20}"),
    link("a OneDrive file", "1drv.ms/$key", "https://1drv.ms/{k12}"),
    link("a Nextcloud file", "*/**/s/$share", "https://cloud.example/s/Ab3dEf6hIj9kLmN"),
    link("a Nextcloud file", "*/**/indexphp/s|f/$key", "https://cloud.example/index.php/s/{k15}"),
    link("an ownCloud file", "*/**/publicphp|public?service=$any&t=$any", "https://cloud.example/public.php?service=files&t={h16}"),
    link("a FileSender file", "*?s=download&token=$key", "https://filesender.example/?s=download&token={h32}"),
    link("a Baidu or TeraBox file", "pan.baidu.com|terabox.com|1024terabox.com/s|share/$any", "https://pan.baidu.com/s/1{k22}?pwd=x7Kq"),
    link("a kDrive or Koofr file", "kdrive.infomaniak.com|koofr.eu|koofr.net/links|share|app/**/$key", "https://kdrive.infomaniak.com/app/share/123/{h8}-{h4}-{h4}-{h4}-{h12}"),
    link("a Frame.io review", "frame.io|f.io/reviews|presentations|r/**/$key", "https://app.frame.io/reviews/{h8}-{h4}-{h4}-{h4}-{h12}"),
    link("a Nextcloud calendar or file", "*/**/publiccalendars|publicfiles|publicwebdav|dav/**/$long", "https://cloud.example/remote.php/dav/public-calendars/{k16}?export"),
    link("a Seafile file", "*/**/f|d|u/$hex", "https://seafile.example/f/{h20}/"),
    link("a Mega file", "mega.nz|mega.io|mega.co.nz/file|folder|embed|chat|collection/$any?#=$any", "https://mega.nz/file/{k8}#{k43}"),
    link("a Mega file", "mega.nz|mega.io|mega.co.nz?#=!$any|f!$any|p!$any", "https://mega.nz/#!{k8}!{k43}"),
    link("a pCloud file", "pcloud.link|pcloud.com|pc.cd/**?code=$any", "https://u.pcloud.link/publink/show?code=kZ{k36}"),
    link("a pCloud file", "pc.cd/$any", "https://pc.cd/{k7}"),
    link("an iCloud file", "icloud.com|icloud.com.cn/iclouddrive|photos|sharedalbum|notes|pages|numbers|keynote|attachment|share/**/$key", "https://www.icloud.com/iclouddrive/{k23}#file"),
    link("an iCloud album", "icloud.com/sharedalbum|photos?#=$key", "https://www.icloud.com/sharedalbum/#{k15}"),
    link("a Proton Drive file", "drive.proton.me|drive.protonmail.com/urls/$any", "https://drive.proton.me/urls/{u10}#{k12}"),
    link("an Egnyte file", "egnyte.com/dl|fl|h-s|ul|dd/$any", "https://corp.egnyte.com/dl/{k10}"),
    link("a ShareFile file", "sharefile.com|sharefile.eu|securevdr.com/d-$any|r-$any|f/**", "https://corp.sharefile.com/d-s{h32}"),
    link("a ShareFile file", "sharefile.com|sharefile.eu/share|public|d/**/$key", "https://corp.sharefile.com/share/view/s{h32}"),
    link("a Kiteworks file", "kiteworks.com|accellion.net/w|d/**/$key", "https://corp.kiteworks.com/w/{k16}"),
    link("a Zoho file", "zohoexternal.com|zohopublic.com|zohopublic.eu|workdrive.zoho.com|zohoexternal.eu/**/$long", "https://workdrive.zohoexternal.com/external/{h40}/download"),
    link("a Yandex or Mail.ru file", "disk.yandex.ru|disk.yandex.com|yadi.sk|disk.360.yandex.ru/d|i|a/$any", "https://disk.yandex.ru/d/{k14}"),
    link("a Yandex or Mail.ru file", "cloud.mail.ru/public|stock/$any", "https://cloud.mail.ru/public/{k4}/{k9}"),
    link("an Amazon album", "amazon.com|amazon.de|amazon.co.uk/clouddrive|photos/share|shared/$any", "https://www.amazon.com/clouddrive/share/{k42}"),
    link("a WorkDocs file", "awsapps.com/**/share/document|folder/$any", "https://corp.awsapps.com/workdocs/index.html#/share/document/{h32}"),
    link("a Synology or QNAP file", "*/**/sharing/$key/!", "https://nas.example:5001/sharing/{k9}"),
    link("a Synology or QNAP file", "quickconnect.to|gofile.me|myqnapcloud.com|synology.me/**/$key", "https://gofile.me/{k5}/{k9}"),
    link("a share of Evernote", "evernote.com/shard/*/sh/$any/$any", "https://www.evernote.com/shard/s1/sh/{h32}/{k32}"),
    link("a secret that is shown once", "onetimesecret.com|eu.onetimesecret.com|secret.link|pwpush.com|yopass.se|privnote.com|quickforget.com|saltify.io|cryptgeon.org|scrt.link|password.link|eu.pwpush.com|us.pwpush.com/**/$key", "https://onetimesecret.com/secret/{k31}"),
    link("a secret that is shown once", "send.bitwarden.com|vault.bitwarden.com|vault.bitwarden.eu|privnote.com|yopass.se|share.1password.com|send.vis.ee|privatebin.net|privatebin.info|bin.veracry.pt|scrt.link?#=$key|*/$any", "https://send.bitwarden.com/#{k22}/{k22}"),
    link("an encrypted paste", "paste.*|privatebin.*|bin.*|pb.*|zerobin.*?#=$paste", "https://paste.example/?{h16}#{k44}"),
    link("a shared note, board or table", "airtable.com|smartsheet.com|lucid.app|miro.com|quip.com/**?token|sharelinkid|eqbct|invitationid|invite=$any", "https://app.smartsheet.com/b/publish?EQBCT={h32}"),

    // Meetings and groups.
    link("a meeting with its password", "zoom.us|zoomgov.com/j|w|wc|s|my/**?pwd|tk=$any", "https://us02web.zoom.us/j/123456789?pwd={k32}"),
    link("a recording", "zoom.us|zoomgov.com/rec/share|play|download/$any", "https://us02web.zoom.us/rec/share/{k60}"),
    link("a meeting", "teams.microsoft.com/l/meetupjoin/$any", "https://teams.microsoft.com/l/meetup-join/19%3ameeting_{k40}%40thread.v2/0"),
    link("a meeting", "teams.live.com|teams.microsoft.com/meet/$any?p=$any", "https://teams.live.com/meet/{d13}?p={k18}"),
    link("a meeting", "webex.com/**/j.php|jphp?mtid=$any", "https://corp.webex.com/corp/j.php?MTID=m{h32}"),
    link("an invitation to a group", "slack.com/**/sharedinvite/$any", "https://join.slack.com/t/corp/shared_invite/zt-{k10}-{k24}"),
    link("an invitation to a group", "chat.whatsapp.com|invite.viber.com|signal.group|chat.signal.org/$long", "https://chat.whatsapp.com/{k22}"),
    link("an invitation to a group", "t.me|telegram.me|telegram.dog/+$any|joinchat/**", "https://t.me/+{k16}"),
    link("an invitation to a group", "discord.gg/$key", "https://discord.gg/{k10}"),
    link("an invitation to a group", "signal.group?#=$any", "https://signal.group/#{k60}"),

    // Calendars and feeds.
    link("a calendar", "calendar.google.com|www.google.com/calendar/**/private-$any", "https://calendar.google.com/calendar/ical/a%40corp.example/private-{h32}/basic.ics"),
    link("a calendar", "calendar.google.com/**/ical|feeds/**/private-$any", "https://www.calendar.google.com/calendar/ical/a/private-{h32}/basic.ics"),
    link("a calendar", "outlook.office365.com|outlook.office.com|outlook.live.com/owa/calendar/$any/$any", "https://outlook.office365.com/owa/calendar/{h32}@corp.example/{h32}/calendar.ics"),
    link("a calendar", "icloud.com/published|webcal/*/$any", "https://p01-caldav.icloud.com/published/2/{k60}"),
    link("a calendar", "icloud.com/ca/subscribe/**", "https://p01-calendarws.icloud.com/ca/subscribe/1/{k20}"),
    link("a calendar", "*/**/$key/**/$ics", "https://app.example/feed/private/{u16}/trips.ics"),
    link("a private feed", "*/**/rss|atom/$long/!", "https://podcast.example/rss/{h20}"),
    link("a calendar", "*/**/$keyics", "https://lms.example/feeds/user_{k40}.ics"),
    link("a calendar", "*/**/@calendar/**/$key/!", "https://app.example/ical/{k12}"),
    link("a calendar", "*/**/@calendar|$ics|feed|feeds|rss|atom?token|key|s|secret|auth|hash|cachekey|passphrasekey|u=$key", "https://app.example/events.ics?s={k20}"),
    link("a calendar", "teamup.com/feed|ks*/**/$key", "https://ics.teamup.com/feed/ks{k16}/0.ics"),

    // Payments.
    link("a payment", "*/**/cs_live_$any|cs_test_$any|ppage_$any|live_$any", "https://checkout.stripe.com/c/pay/cs_live_{k58}"),
    link("a payment", "*?clientsecret|paymentintentclientsecret|setupintentclientsecret=$any", "https://shop.example/done?payment_intent_client_secret=pi_{k24}_secret_{k25}"),
    link("a payment", "paypal.com/**?token|batoken|ectoken=$any", "https://www.paypal.com/checkoutnow?token=EC-{u17}"),
    link("a payment", "paypal.com/invoice/**/inv$any|$long", "https://www.paypal.com/invoice/p/INV2-{u4}-{u4}-{u4}-{u4}"),
    link("a payment", "mollie.com|mollie.nl/**/checkout|paymentscreen|payscreen/**/$key", "https://www.mollie.com/checkout/select-method/{k10}"),
    link("a payment", "adyen.com|adyenpayments.com|klarna.com|klarnacdn.net|gocardless.com|checkout.com|worldpay.com|sumup.com|razorpay.com|rzp.io|paddle.com|chargebee.com|recurly.com|authorize.net|braintreepayments.com|squareup.com|square.link|stripe.com|payu.com|connect.intuit.com|2checkout.com|xendit.co|midtrans.com|payfast.co.za|mercadopago.com|flutterwave.com|paystack.com|coinbase.com|bitpay.com/**/$long", "https://pay.gocardless.com/obauth/{k20}"),
    link("a payment", "adyen.com|adyenpayments.com|klarna.com|gocardless.com|checkout.com|worldpay.com|razorpay.com|paddle.com|chargebee.com|recurly.com|authorize.net|squareup.com|stripe.com|payu.com|2checkout.com|mercadopago.com?sessionid|session|sid|token|id|key|d|prefid|hsid|orderid|redirectresult=$long", "https://checkoutshopper-live.adyen.com/checkoutshopper/start?sessionId=CS{u16}"),
    link("a payment", "*/**/checkout|checkouts|checkoutsession|paymentsession|paymentlink|paymentlinks/**/$long", "https://shop.example/checkouts/c/{h32}/information"),
    link("a payment", "*/**/checkout|checkouts|pay|payment|payments|paynow|*billing*portal*?session|sessionid|sessiontoken|token|key|secret|paymenttoken=$key", "https://shop.example/checkout?session_id={k24}"),
    link("a payment", "pay.*|payment.*|payments.*|checkout.*|secure-checkout.*|invoice.*|billing.*/**/$long", "https://pay.example/payment/{h8}-{h4}-{h4}-{h4}-{h12}"),
    link("a payment", "pay.klarna.com|pay.gocardless.com|pay.sumup.com|pay.paddle.com|adyen.link|checkout.stripe.com|invoice.stripe.com|billing.stripe.com/**/$key", "https://live.adyen.link/PL{u16}"),
    link("a payment", "squareup.com/payinvoice/$any", "https://squareup.com/pay-invoice/inv:0-x"),
    link("a billing portal", "*/**/billing|portal|p/session|sessions/$key", "https://billing.example/p/session/{k24}"),
];

/// A token that is known by its form, wherever it stands.
struct Token {
    opens: &'static str,
    /// What it begins with: one of these.
    marks: &'static [&'static str],
    tail: Tail,
    /// The fewest characters of the tail.
    least: usize,
    #[cfg(test)]
    example: &'static str,
}

/// The characters behind a token's mark.
#[derive(Debug, Clone, Copy)]
enum Tail {
    /// Letters and digits.
    Alnum,
    /// Those, and `-` and `_`.
    Word,
    /// Those, and `.`.
    Dotted,
    /// Hexadecimal digits.
    Hex,
    /// Capitals and digits.
    Upper,
}

impl Tail {
    fn has(self, byte: u8) -> bool {
        match self {
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Word => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Upper => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
        }
    }
}

const fn token(
    opens: &'static str,
    marks: &'static [&'static str],
    tail: Tail,
    least: usize,
    example: &'static str,
) -> Token {
    let _ = example;
    Token {
        opens,
        marks,
        tail,
        least,
        #[cfg(test)]
        example,
    }
}

#[rustfmt::skip] // one form a line, however long
const TOKENS: &[Token] = &[
    token("GitHub", &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], Tail::Alnum, 30, "ghp_{k36}"),
    token("GitHub", &["github_pat_"], Tail::Word, 22, "github_pat_{k22}_{k40}"),
    token("GitHub", &["GHSAT0"], Tail::Upper, 20, "GHSAT0{u36}"),
    token("GitLab", &["glpat-", "gldt-", "glrt-", "glptt-", "glft-", "glsoat-", "glcbt-", "glagent-", "gloas-", "glimt-", "glffct-"], Tail::Dotted, 18, "glpat-{k20}"),
    token("Slack", &["xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xoxe.", "xoxc-", "xoxd-", "xapp-"], Tail::Word, 10, "xoxb-{d12}-{k24}"),
    token("Stripe", &["sk_live_", "sk_test_", "rk_live_", "rk_test_", "whsec_"], Tail::Alnum, 16, "sk_live_{k24}"),
    token("Google", &["AIza"], Tail::Word, 35, "AIza{k35}"),
    token("Google", &["ya29."], Tail::Word, 20, "ya29.{k40}"),
    token("Google", &["GOCSPX-"], Tail::Word, 20, "GOCSPX-{k28}"),
    token("Google", &["1//0"], Tail::Word, 30, "1//0{k40}"),
    token("AWS", &["AKIA", "ASIA", "ABIA", "ACCA"], Tail::Upper, 16, "AKIA{u16}"),
    token("npm", &["npm_"], Tail::Alnum, 36, "npm_{k36}"),
    token("PyPI", &["pypi-AgE"], Tail::Word, 40, "pypi-AgE{k60}"),
    token("Docker", &["dckr_pat_", "dckr_oat_"], Tail::Word, 20, "dckr_pat_{k27}"),
    token("Hugging Face", &["hf_"], Tail::Alnum, 30, "hf_{k34}"),
    token("Anthropic", &["sk-ant-"], Tail::Word, 24, "sk-ant-{k40}"),
    token("OpenAI", &["sk-proj-", "sk-svcacct-", "sk-admin-"], Tail::Word, 24, "sk-proj-{k40}"),
    token("OpenAI", &["sk-"], Tail::Alnum, 40, "sk-{k48}"),
    token("SendGrid", &["SG."], Tail::Dotted, 40, "SG.{k22}.{k43}"),
    token("Mailgun", &["key-"], Tail::Hex, 32, "key-{h32}"),
    token("Twilio", &["SK", "AC"], Tail::Hex, 32, "SK{h32}"),
    token("DigitalOcean", &["dop_v1_", "doo_v1_", "dor_v1_"], Tail::Hex, 60, "dop_v1_{h64}"),
    token("Shopify", &["shpat_", "shpca_", "shppa_", "shpss_"], Tail::Hex, 32, "shpat_{h32}"),
    token("Square", &["sq0atp-", "sq0csp-", "sq0idp-"], Tail::Word, 22, "sq0atp-{k22}"),
    token("Facebook", &["EAA"], Tail::Alnum, 60, "EAA{k80}"),
    token("Linear", &["lin_api_", "lin_oauth_"], Tail::Alnum, 32, "lin_api_{k40}"),
    token("Notion", &["ntn_"], Tail::Alnum, 40, "ntn_{k46}"),
    token("Figma", &["figd_"], Tail::Word, 30, "figd_{k40}"),
    token("Vault", &["hvs.", "hvb.", "hvr."], Tail::Word, 24, "hvs.{k24}"),
    token("Terraform", &[".atlasv1."], Tail::Word, 50, "{k14}.atlasv1.{k60}"),
    token("Atlassian", &["ATATT3", "ATCTT3", "ATBB"], Tail::Word, 24, "ATATT3{k100}"),
    token("Postman", &["PMAK-"], Tail::Word, 24, "PMAK-{h24}-{h34}"),
    token("Supabase", &["sbp_", "sb_secret_"], Tail::Word, 20, "sbp_{h40}"),
    token("Grafana", &["glsa_", "glc_"], Tail::Word, 32, "glsa_{k32}_{h8}"),
    token("New Relic", &["NRAK-"], Tail::Upper, 27, "NRAK-{u27}"),
    token("Databricks", &["dapi"], Tail::Hex, 32, "dapi{h32}"),
    token("RubyGems", &["rubygems_"], Tail::Hex, 48, "rubygems_{h48}"),
    token("Tailscale", &["tskey-"], Tail::Word, 20, "tskey-auth-{k30}"),
    token("HubSpot", &["pat-na1-", "pat-eu1-"], Tail::Word, 30, "pat-na1-{h8}-{h4}-{h4}-{h4}-{h12}"),
    token("Airtable", &["pat"], Tail::Dotted, 70, "pat{k14}.{h64}"),
    token("Discord", &["mfa."], Tail::Word, 60, "mfa.{k84}"),
    token("a private key", &["-----BEGIN", "AGE-SECRET-KEY-"], Tail::Upper, 0, "-----BEGIN PRIVATE KEY-----"),
];

static PATTERNS: LazyLock<Vec<(&'static str, Pattern)>> =
    LazyLock::new(|| LINKS.iter().map(|rule| (rule.opens, Pattern::read(rule.pattern))).collect());

/// What a link opens, by its shape.
pub(super) fn matching(link: &Link) -> Option<&'static str> {
    PATTERNS.iter().find(|(_, pattern)| pattern.matches(link)).map(|(opens, _)| *opens)
}

/// Whose token a text holds, by its form.
pub(in crate::url) fn holds_token(text: &str) -> Option<&'static str> {
    let known = || (0..text.len()).find_map(|at| token_at(text.as_bytes(), at));
    known()
        .or_else(|| has_bot_token(text).then_some("Telegram"))
        .or_else(|| has_dotted(text, is_jwt).then_some("a JSON Web Token"))
        .or_else(|| has_dotted(text, is_discord).then_some("Discord"))
}

/// The number of a Telegram bot and its key: `123456789:AA..`.
fn has_bot_token(text: &str) -> bool {
    text.match_indices(':').any(|(at, _)| {
        let (number, key) = (&text.as_bytes()[..at], &text.as_bytes()[at + 1..]);
        number.iter().rev().take_while(|byte| byte.is_ascii_digit()).count() >= 8
            && key.iter().take_while(|byte| Tail::Word.has(**byte)).count() >= 30
    })
}

/// Whether a text holds three parts with dots between them that are a token.
fn has_dotted(text: &str, is: fn([&str; 3]) -> bool) -> bool {
    text.split(|char: char| !(char.is_ascii() && Tail::Dotted.has(char as u8))).any(|piece| {
        let parts: Vec<&str> = piece.split('.').collect();
        parts.windows(3).any(|parts| is([parts[0], parts[1], parts[2]]))
    })
}

/// A header in Base64 with an algorithm or a type, a body, and a signature, which may be empty.
fn is_jwt([header, body, _]: [&str; 3]) -> bool {
    // The Base64 of `{`, with which a JSON object begins.
    if !header.starts_with('e') || body.is_empty() || header.len() > JWT_HEADER {
        return false;
    }
    let header = URL_SAFE_NO_PAD.decode(header).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    header.is_some_and(|header: serde_json::Value| header.get("alg").is_some() || header.get("typ").is_some())
}

/// The number of a bot's user in Base64, a time, and a signature.
fn is_discord([user, time, signature]: [&str; 3]) -> bool {
    let is_number = |bytes: Vec<u8>| bytes.len() >= 15 && bytes.iter().all(u8::is_ascii_digit);
    (6..=7).contains(&time.len())
        && signature.len() >= 27
        && URL_SAFE_NO_PAD.decode(user).is_ok_and(is_number)
}

/// What a token begins with, and its form.
type Mark = (&'static [u8], &'static Token);

/// The forms by the first byte of their marks.
static MARKS: LazyLock<Vec<Vec<Mark>>> = LazyLock::new(|| {
    let marks =
        || TOKENS.iter().flat_map(|token| token.marks.iter().map(move |mark| (mark.as_bytes(), token)));
    (0..=u8::MAX).map(|first| marks().filter(|(mark, _)| mark[0] == first).collect()).collect()
});

fn token_at(text: &[u8], at: usize) -> Option<&'static str> {
    // In the middle of other letters, a mark is chance.
    if at > 0 && text[at].is_ascii_alphanumeric() && text[at - 1].is_ascii_alphanumeric() {
        return None;
    }
    let has = |token: &Token, tail: &[u8]| {
        tail.iter().take_while(|byte| token.tail.has(**byte)).take(token.least).count() >= token.least
    };
    let mut marks = MARKS[usize::from(text[at])].iter();
    marks
        .find(|(mark, token)| text[at..].strip_prefix(*mark).is_some_and(|tail| has(token, tail)))
        .map(|(_, token)| token.opens)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::{super::examples::filled, *};

    fn parsed(text: &str) -> Url {
        Url::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn each_rule_refuses_its_example() {
        let misses = LINKS.iter().filter(|rule| {
            let link = Link::of(&parsed(&filled(rule.example)));
            !Pattern::read(rule.pattern).matches(&link)
        });
        assert_eq!(misses.map(|rule| (rule.pattern, rule.example)).collect::<Vec<_>>(), []);
    }

    #[test]
    fn each_token_is_found_by_its_form_and_only_whole() {
        for token in TOKENS {
            let example = filled(token.example);
            let whole = holds_token(&format!("https://a.example/?x={example}&y=1"));
            assert_eq!(whole, Some(token.opens), "{example}");
            let mark = holds_token(&format!("https://a.example/?x={}&y=1", token.marks[0]));
            assert!(mark.is_none() || token.least == 0, "{example}");
        }
        for (opens, example) in [
            ("Telegram", "https://a.example/?x={d10}:{k35}"),
            ("a JSON Web Token", "https://a.example/x={jwt}/y"),
            ("Discord", "https://a.example/MTIzNDU2Nzg5MDEyMzQ1Njc4.G{k5}.{k38}"),
        ] {
            assert_eq!(holds_token(&filled(example)), Some(opens));
        }
        for text in [
            "https://a.example/eyJhbGciOiJIUzI1NiJ9",
            "https://a.example/eyJhIjoxfQ.eyJhIjoxfQ.abc",
            "https://a.example/every.body.knows",
            "https://a.example/task-sk-live_x?ghp_=1",
            "https://a.example/12345678:80/x",
        ] {
            assert_eq!(holds_token(text), None, "{text}");
        }
    }
}
