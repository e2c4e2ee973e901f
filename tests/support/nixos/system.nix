# SPDX-FileCopyrightText: 2026 nixfleet.builders contributors
# SPDX-License-Identifier: GPL-3.0-or-later
# A small stand-in for NixOS: the options that our modules set, how definitions of them are merged, and the files that come out.
# What is no option here, or is not of its type, is an error. The rules are those of nixpkgs: lib/modules.nix and the modules under
# nixos/modules that declare these options.
{
  # Files of modules, or modules.
  modules,
}:
let
  inherit (builtins)
    all
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isFloat
    isInt
    isList
    isPath
    isString
    listToAttrs
    mapAttrs
    match
    replaceStrings
    sort
    toJSON
    ;

  # ------------------------------------------------------------------------------------------------ definitions
  lib = {
    mkOrder = order: content: { _type = "order"; inherit order content; };
    mkBefore = lib.mkOrder 500;
    mkAfter = lib.mkOrder 1500;
    mkOverride = priority: content: { _type = "override"; inherit priority content; };
    mkDefault = lib.mkOverride 1000;
    mkForce = lib.mkOverride 50;
  };
  unwrap =
    value:
    if (value._type or "") == "override" then
      unwrap value.content // { inherit (value) priority; }
    else if (value._type or "") == "order" then
      unwrap value.content // { inherit (value) order; }
    else
      { priority = 100; order = 1000; inherit value; };

  fail = path: text: throw "the option ${concatStringsSep "." path} ${text}";

  # ------------------------------------------------------------------------------------------------ types
  # A type: merge takes the path and the values that count, in order.
  scalar = name: check: {
    inherit name check;
    merge =
      path: values:
      if all check values && all (value: value == head values) values then
        head values
      else
        fail path "is no ${name}, or has two values: ${toJSON values}";
  };
  str = scalar "string" isString;
  line = scalar "line" (value: isString value && match "[^\n\r]*" value != null);
  bool = scalar "boolean" isBool;
  int = scalar "integer" isInt;
  positive = scalar "positive number" (value: (isInt value || isFloat value) && value > 0);
  enum = words: scalar "one of ${toJSON words}" (value: elem value words);
  nullOr = type: scalar "null or ${type.name}" (value: value == null || type.check value);
  path = scalar "path" (value: (isString value || isPath value) && match "/.*" (toString value) != null);
  passwdEntry = scalar "field of passwd" (value: isString value && match "[^:\n]*" value != null);
  lines = {
    name = "lines";
    check = isString;
    merge = path: values: if all isString values then concatStringsSep "\n" values else fail path "is no text";
  };
  listOf = type: {
    name = "list";
    check = isList;
    merge =
      path: values:
      if all isList values then
        map (value: type.merge path [ value ]) (concatLists values)
      else
        fail path "is no list: ${toJSON values}";
  };
  attrsOf = type: {
    name = "set";
    check = isAttrs;
    merge =
      path: values:
      if all isAttrs values then
        listToAttrs (
          map (name: {
            inherit name;
            value = merge (path ++ [ name ]) type (concatMap (value: if value ? ${name} then [ value.${name} ] else [ ]) values);
          }) (names values)
        )
      else
        fail path "is no set";
  };
  # An option of a submodule: its type and its default, where there is one. freeform: the type of what is no option.
  submodule = { options, freeform ? null }: {
    name = "submodule";
    check = isAttrs;
    merge =
      path: values:
      if !all isAttrs values then
        fail path "is no set"
      else
        listToAttrs (
          concatMap (
            name:
            let
              found = concatMap (value: if value ? ${name} then [ value.${name} ] else [ ]) values;
              option = options.${name} or null;
              here = path ++ [ name ];
            in
            if found != [ ] && option == null && freeform == null then
              fail here "does not exist"
            else if found != [ ] then
              [ { inherit name; value = merge here (if option == null then freeform else option.type) found; } ]
            else if option ? default then
              [ { inherit name; value = option.default; } ]
            else
              [ ]
          ) (names (values ++ [ options ]))
        );
  };
  confAtom = scalar "atom of nix.conf" (value: value == null || isBool value || isInt value || isFloat value || isString value);
  confValue = {
    name = "value of nix.conf";
    check = _: true;
    merge = path: values: if all isList values then (listOf confAtom).merge path values else confAtom.merge path values;
  };

  names = sets: attrNames (foldl' (found: set: found // set) { } sets);
  # The definitions with the best priority, in their order.
  merge =
    path: type: definitions:
    let
      unwrapped = map unwrap definitions;
      best = foldl' (found: definition: if definition.priority < found then definition.priority else found) 9999 unwrapped;
      kept = filter (definition: definition.priority == best) unwrapped;
      ordered = sort (a: b: a.order < b.order) kept;
    in
    type.merge path (map (definition: definition.value) ordered);

  # ------------------------------------------------------------------------------------------------ options
  option = type: default: { inherit type default; };
  required = type: { inherit type; };
  group = options: { type = submodule { inherit options; }; default = (submodule { inherit options; }).merge [ ] [ { } ]; };

  buildMachine = submodule {
    options = {
      hostName = required str;
      protocol = option (enum [ null "ssh" "ssh-ng" ]) "ssh";
      system = option (nullOr str) null;
      systems = option (listOf str) [ ];
      sshUser = option (nullOr str) null;
      sshKey = option (nullOr str) null;
      maxJobs = option int 1;
      speedFactor = option positive 1;
      mandatoryFeatures = option (listOf str) [ ];
      supportedFeatures = option (listOf str) [ ];
      publicHostKey = option (nullOr str) null;
    };
  };
  knownHost = submodule {
    options = {
      hostNames = required (listOf str);
      publicKey = option (nullOr str) null;
      certAuthority = option bool false;
    };
  };
  user = submodule {
    options = {
      isSystemUser = option bool false;
      isNormalUser = option bool false;
      description = option passwdEntry "";
      uid = option (nullOr int) null;
      group = option str "";
      extraGroups = option (listOf str) [ ];
      home = option path "/var/empty";
      createHome = option bool false;
      hashedPassword = option (nullOr passwdEntry) null;
      shell = option path "/run/current-system/sw/bin/nologin";
      openssh = group { authorizedKeys = group { keys = option (listOf line) [ ]; }; };
    };
  };
  file = submodule {
    options = {
      text = required lines;
      mode = option str "symlink";
    };
  };
  options = {
    environment = group { etc = option (attrsOf file) { }; };
    nix = group {
      distributedBuilds = option bool false;
      buildMachines = option (listOf buildMachine) [ ];
      settings = option (submodule {
        freeform = confValue;
        options = {
          max-jobs = option (scalar "number or auto" (value: isInt value || value == "auto")) "auto";
          cores = option int 0;
          require-sigs = option bool true;
          substituters = option (listOf str) [ ];
          trusted-substituters = option (listOf str) [ ];
          trusted-public-keys = option (listOf str) [ ];
          trusted-users = option (listOf str) [ ];
          system-features = option (listOf str) [ ];
          extra-sandbox-paths = option (listOf str) [ ];
        };
      }) { };
    };
    programs = group {
      ssh = group {
        extraConfig = option lines "";
        knownHosts = option (attrsOf knownHost) { };
      };
    };
    services = group {
      openssh = group {
        enable = option bool false;
        extraConfig = option lines "";
        settings = option (submodule { freeform = scalar "value of sshd_config" (value: isString value || isInt value || isBool value); options = { }; }) { };
      };
    };
    systemd = group { tmpfiles = group { rules = option (listOf str) [ ]; }; };
    users = group {
      users = option (attrsOf user) { };
      groups = option (attrsOf (submodule { options = { gid = option (nullOr int) null; }; })) { };
    };
  };

  # What NixOS itself says.
  system = {
    nix.settings = {
      trusted-users = [ "root" ];
      trusted-public-keys = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
      system-features = lib.mkDefault [ "nixos-test" "benchmark" "big-parallel" "kvm" ];
    };
  };
  config = (submodule { inherit options; }).merge [ ] (
    [ system ] ++ map (module: call (if isPath module || isString module then import module else module)) modules
  );
  call = module: if isAttrs module then module else module { inherit lib config; };

  # ------------------------------------------------------------------------------------------------ files
  or_ = empty: text: if text == "" then empty else text;
  machineLine =
    machine:
    let
      scheme = if machine.protocol == null then "" else "${machine.protocol}://";
      login = if machine.sshUser == null then "" else "${machine.sshUser}@";
      systems = if machine.system == null then machine.systems else [ machine.system ];
      words = list: or_ "-" (concatStringsSep "," list);
    in
    if systems == [ ] then
      throw "${machine.hostName}: at least one system type must be set"
    else
      concatStringsSep " " [
        "${scheme}${login}${machine.hostName}"
        (words systems)
        (if machine.sshKey == null then "-" else machine.sshKey)
        (toString machine.maxJobs)
        (toString machine.speedFactor)
        (words (machine.supportedFeatures ++ machine.mandatoryFeatures))
        (words machine.mandatoryFeatures)
        (if machine.publicHostKey == null then "-" else machine.publicHostKey)
      ]
      + "\n";
  isExtra = name: match "extra-.*" name != null;
  confText = value: if isBool value then (if value then "true" else "false") else toString value;
  settings = config.nix.settings // (if config.nix.distributedBuilds then { } else { builders = ""; });
  confLines = wanted: map (name: "${name} = ${confText settings.${name}}\n") (filter (name: isExtra name == wanted) (attrNames settings));
  knownHostLine =
    host: "${concatStringsSep "," host.hostNames} ${if host.publicKey == null then throw "a known host has no key" else host.publicKey}\n";
  # A here-document of a shell stands between the option and the file.
  unexpanded =
    text: if replaceStrings [ "$" "`" "\\" ] [ "" "" "" ] text == text then text else throw "a shell would expand sshd's extraConfig";
  link = text: { inherit text; mode = "symlink"; };
  accounts = filter (name: config.users.users.${name}.openssh.authorizedKeys.keys != [ ]) (attrNames config.users.users);
  checkUser =
    name: account:
    if account.isSystemUser == account.isNormalUser then
      throw "exactly one of isSystemUser and isNormalUser must be set for ${name}"
    else if !(config.users.groups ? ${account.group}) then
      throw "${name} has no group"
    else
      account;
  etc =
    {
      "nix/nix.conf" = link (concatStringsSep "" (confLines false ++ confLines true));
      "ssh/ssh_config" = link "${config.programs.ssh.extraConfig}\nHost *\nGlobalKnownHostsFile /etc/ssh/ssh_known_hosts\n";
      "ssh/ssh_known_hosts" = link (concatStringsSep "" (map knownHostLine (attrValues config.programs.ssh.knownHosts)));
      "ssh/sshd_config" = link (
        concatStringsSep "" (
          map (name: "${name} ${confText config.services.openssh.settings.${name}}\n") (attrNames config.services.openssh.settings)
        )
        + unexpanded config.services.openssh.extraConfig
      );
    }
    // listToAttrs (
      map (name: {
        name = "ssh/authorized_keys.d/${name}";
        value = {
          text = concatStringsSep "\n" config.users.users.${name}.openssh.authorizedKeys.keys + "\n";
          mode = "0444";
        };
      }) accounts
    );
  machinesText = concatStringsSep "" (map machineLine config.nix.buildMachines);
in
{
  inherit config;
  # What is below /etc, by name: its text, and its mode where it is no link.
  files =
    etc
    // config.environment.etc
    // (
      if machinesText == "" then
        { }
      else
        { "nix/machines" = link (machinesText + (config.environment.etc."nix/machines" or { text = ""; }).text); }
    );
  users = mapAttrs checkUser config.users.users;
  groups = config.users.groups;
  tmpfiles = config.systemd.tmpfiles.rules;
}
