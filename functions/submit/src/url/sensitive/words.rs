//! Words that several rules share, in the spelling of the patterns.

/// Each list with its name, which patterns write as `@name`.
#[rustfmt::skip] // one list a line, however long
pub(super) const LISTS: &[(&str, &str)] = &[
    ("reset", "*resetpassword*|*passwordreset*|*resetpw*|*pwreset*|*pwdreset*|*forgotpassword*|*forgottenpassword*|forgot|*lostpassword*|*recoverpassword*|*passwordrecover*|*recoveraccount*|*accountrecover*|*changepassword*|*passwordchange*|*setpassword*|*createpassword*|*newpassword*|*updatepassword*|*choosepassword*|*restorepassword*|*passwordrestore*|*resetverify*|*passwortzur*|reset|recover|recovery|unlock|restore|pwr"),
    ("magic", "*magiclink*|*magiclogin*|*magicsign*|*magicauth*|*loginmagic*|*passwordless*|*loginlink*|*signinlink*|*emaillogin*|*emailsignin*|*loginwithemail*|*signinwithemail*|*loginbyemail*|*loginemail*|*signinemail*|*onetimelogin*|*onetimelink*|*oneclicklogin*|*autologin*|*tokenlogin*|*logintoken*|*verifylogin*|*loginverify*|*instantlogin*|magic|otl|otp"),
    ("confirm", "wpactivate|*verifytoken*|*verifyemail*|*verifymail*|*verifyaccount*|*verifyuser*|*emailverif*|*accountverif*|*emailvalid*|*validateemail*|*confirmemail*|*confirmmail*|*emailconfirm*|*confirmaccount*|*accountconfirm*|*confirmregistration*|*registrationconfirm*|*confirmsignup*|*confirmuser*|*confirmsubscription*|*activateaccount*|*accountactivat*|*useractivat*|*activateuser*|*doubleoptin*|*confirmnewemail*|*confirmchange*|confirm|confirmation|verify|verification|activate|activation|validate|optin"),
    ("invite", "acceptorganization|teamjoin|*invite*|*invitation*|*joinworkspace*|*jointeam*|*joinorg*|joinlink"),
    ("signup", "*signup*|*register*|*registration*|*enroll*|*onboarding*|join|welcome"),
    ("login", "login|signin|logon|auth|session|sessions|sso|account|accounts|user|users|u"),
    ("account", "password|passwords|pass|pwd|account|accounts|user|users"),
    ("calendar", "*calendar*|*caldav*|ical|icalendar|ics|webcal"),
    ("key", "token|tokenhash|key|code|ticket|otp|otc|pin|passcode|hash|digest|c|h|k|t"),
];
